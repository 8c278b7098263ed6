// How blocks reach the page. A wire connects, hands on what comes, and returns or throws when it is cut. What that means,
// and what is tried next, is decided in one place for all (connection.js), which gives it
//
//     get(type, feed, headers)       gets the page's URL as this type, and feeds its text as that comes, to its end
//     take(event, data, id, retry)   takes a block; its data are text, or what that is as JSON, a value for each line
//     alive()                        to be awaited when something has come otherwise, before it is taken
//     link                           its signal aborts when the page lets go; from then on all of them throw
import { decoder } from "./decoder.js";

export const wires = {
  stream: (get, take) => get("text/event-stream", decoder(take)),

  websocket: (_, take, alive, link, url, position) =>
    new Promise((done) => {
      const socket = new WebSocket(url.replace("http", "ws"), ["afterload.v1", "afterload.position." + position]);
      const feed = decoder(take);
      link.signal.onabort = () => socket.close();
      socket.onclose = done;
      socket.onmessage = (event) =>
        alive()
          .then(() => feed(event.data))
          .catch(done);
    }),

  async poll(get, take) {
    for (let wait = 0; ; ) {
      const asked = performance.now();
      let text = "";
      await get("application/json", (piece) => (text += piece), { "Al-Wait": wait });
      const blocks = JSON.parse(text || "[]");
      for (const [event, id, ...lines] of blocks) take(event, lines, id, lines[0]?.retry);
      // A server that holds no request is not asked all the time.
      const pause = asked + (wait && !blocks[1] ? 1e3 : 250) - performance.now();
      await new Promise((done) => setTimeout(done, pause));
      wait = blocks[0]?.[2].heartbeat || wait || 20; // s; so there is an answer in time for the watchdog
    }
  },
};
