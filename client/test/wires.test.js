import assert from "node:assert/strict";
import { test } from "node:test";
import { wires } from "../src/wires.js";

const HELLO = ["hello", "p.0", { v: 1, heartbeat: 7, retry: 900, channels: ["a"] }];

// A poll whose answers are given one after the other; the wire ends with the last. What it does in between is on record.
const poll = async (t, ...answers) => {
  let clock = 0;
  t.mock.method(performance, "now", () => clock);
  const seen = { asked: [], taken: [], pauses: [] };
  t.mock.method(globalThis, "setTimeout", (act, ms) => {
    seen.pauses.push(ms);
    clock += Math.max(0, ms);
    queueMicrotask(act);
  });
  const get = async (type, feed, headers) => {
    seen.asked.push([type, headers["Al-Wait"]]);
    const answer = answers.shift();
    if (!answer) throw Error("cut");
    clock += answer.after || 0;
    for (const piece of answer.pieces || [JSON.stringify(answer.blocks)]) feed(piece);
  };
  const take = (...block) => seen.taken.push(block);
  await assert.rejects(wires.poll(get, take), /cut/);
  return seen;
};

test("a poll asks at once, and then for as long as a heartbeat", async (t) => {
  const seen = await poll(t, { blocks: [HELLO] }, { blocks: [HELLO], after: 7000 });
  assert.deepEqual(seen.asked, [0, 7, 7].map((wait) => ["application/json", wait]));
});

test("its blocks are taken with their ids and lines", async (t) => {
  const lines = [["a", 1, [["text", "#x", "1"]]], ["b", 4, []]];
  const blocks = [HELLO, ["patch", "p.1", ...lines], ["message", null, "text"], ["reset", null, { channel: "a" }]];
  const { taken } = await poll(t, { blocks });
  assert.deepEqual(taken, [
    ["hello", [HELLO[2]], "p.0", 900],
    ["patch", lines, "p.1", undefined],
    ["message", ["text"], null, undefined],
    ["reset", [{ channel: "a" }], null, undefined],
  ]);
});

test("a block without data is none of its business", async (t) => {
  const { taken } = await poll(t, { blocks: [HELLO, ["novel", null], ["other", "p.2", null]] });
  assert.deepEqual(taken.slice(1), [["novel", [], null, undefined], ["other", [null], "p.2", undefined]]);
});

test("an answer may come in pieces", async (t) => {
  const text = JSON.stringify([HELLO, ["message", null, "a,b"]]);
  const { taken } = await poll(t, { pieces: [...text] });
  assert.equal(taken.length, 2);
});

test("news are asked for four times a second at most, and at once after a wait", async (t) => {
  const news = [HELLO, ["message", null, "x"]];
  const { pauses } = await poll(
    t, { blocks: news }, { blocks: news, after: 100 }, { blocks: news, after: 240 }, { blocks: news, after: 5000 },
  );
  assert.deepEqual(pauses.map((ms) => Math.max(0, ms)), [250, 150, 10, 0]);
});

test("a server that holds no request is asked once a second", async (t) => {
  const { pauses } = await poll(t, { pieces: [] }, { pieces: [] }, { blocks: [HELLO] }, { blocks: [HELLO] });
  assert.deepEqual(pauses, [250, 1000, 1000, 1000]);
});

test("what is no JSON is a cut", async () => {
  const get = async (type, feed) => feed("[[");
  await assert.rejects(wires.poll(get, () => {}), SyntaxError);
});

// A WebSocket that a test has in its hand.
const websocket = (url, position, take = () => {}, alive = async () => {}) => {
  let socket;
  globalThis.WebSocket = class {
    constructor(...made) {
      socket = this;
      this.made = made;
    }
    close() {
      this.closed = true;
      this.onclose?.("closed");
    }
  };
  const link = new AbortController();
  const over = wires.websocket(null, take, alive, link, url, position);
  return { socket, link, over };
};

test("a WebSocket has the page's URL, and its position among the protocols", () => {
  const { socket } = websocket("https://a.example/http?x=http", "e1.7~");
  assert.deepEqual(socket.made, ["wss://a.example/http?x=http", ["afterload.v1", "afterload.position.e1.7~"]]);
  assert.equal(websocket("http://a.example/", "0").socket.made[0], "ws://a.example/");
});

test("its messages are taken in their order, each when the page is ready for it", async () => {
  const taken = [];
  let ready;
  const waiting = new Promise((done) => (ready = done));
  const { socket } = websocket("http://a/", "0", (event, data) => taken.push(event + data), () => waiting);
  socket.onmessage({ data: "data: 1\n\ndata: 2\n\n" });
  socket.onmessage({ data: "event: ping\ndata: {}\n\n" });
  await null;
  assert.deepEqual(taken, []);
  ready();
  await new Promise(setImmediate);
  assert.deepEqual(taken, ["message1", "message2", "ping{}"]);
});

test("it is over when it is closed, or a block was not to be taken", { timeout: 5000 }, async () => {
  const one = websocket("http://a/", "0");
  one.socket.onclose();
  await one.over;
  const two = websocket("http://a/", "0", () => {
    throw 0;
  });
  two.socket.onmessage({ data: "data: 1\n\n" });
  await two.over;
});

test("letting go closes it", async () => {
  const { socket, link, over } = websocket("http://a/", "0");
  link.abort();
  assert.ok(socket.closed);
  await over;
});

test("a URL that is none of a WebSocket's is an error of that wire", async () => {
  globalThis.WebSocket = class {
    constructor() {
      throw new SyntaxError("no such scheme");
    }
  };
  await assert.rejects(wires.websocket(null, null, null, new AbortController(), "about:srcdoc", "0"), SyntaxError);
});
