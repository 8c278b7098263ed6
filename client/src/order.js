// Which wires are tried, in which order. What has never worked (a proxy that buffers, or knows no WebSocket) is not
// tried by each page anew, but that is forgotten after a day: networks change.

// Browsers have six connections of HTTP/1.1 for all tabs of a host, but hundreds of WebSockets.
export const scarce = () => performance.getEntriesByType("navigation")[0]?.nextHopProtocol === "http/1.1";

// Where storage is forbidden, as in a sandbox, at least this page remembers.
let memory;
try {
  memory = localStorage;
} catch {}
memory ||= {};

export const remember = (wire) => {
  try {
    memory["afterload." + wire] = Date.now();
  } catch {} // no room
};

// `worked` are those that have worked in this page, whatever became of them in others.
export const order = (worked) =>
  (scarce() ? ["websocket", "stream", "poll"] : ["stream", "websocket", "poll"]).filter(
    (wire) => worked[wire] || !(Math.abs(Date.now() - memory["afterload." + wire]) < 864e5),
  );
