// The stream: connects, reads blocks, and comes back after every interruption with the position it had.
//
//          connect ──hello──▶ live ──end of all, 204──▶ over (ended, failed)
//           ▲   │              │
//     timer │   │ cut, silence, gap, bye, refresh
//           └───┴──────────────┘          4xx, no stream, another page ──▶ over (denied)
//
// At most one of `link` (a request is under way) and `timer` (one will be) is set; with neither the page has let go
// (hidden, in the back/forward cache, over). `healing` says that the next request is for the page's HTML.
//
// Other wires (WebSocket, long poll) have their place in `connect`: what they must do is what `feed` does with each
// block, and throw when they are cut.
import { again } from "./again.js";
import { actions } from "./actions.js";
import { backoff } from "./backoff.js";
import { decoder } from "./decoder.js";
import { fire, show as tell } from "./events.js";
import { apply, beforehand, follow } from "./page.js";
import { keep, restore, swap } from "./served.js";

const url = location.href.split("#")[0];
const stream = "text/event-stream";

let link;
let timer;
let over;
let healing;
let retry = 500; // ms, until the server says
let failures = 0;
let heals = 0;
let heartbeat = 20; // s
let heard;
let into;
let open; // names of the channels that are not over
let seqs = new Map(); // channel -> the number of its last entry
const failed = new Map();

const now = () => performance.now(); // not the clock of the day, which is set

const client = (window.afterload = {
  actions,
  position: document.currentScript?.dataset.position,
  close() {
    if (over) return;
    leave();
    stop("ended");
  },
  open() {
    if (!over) return;
    over = 0;
    failed.clear();
    connect();
  },
});

const show = (status, detail) => tell(client, status, detail);

const ready = new Promise((done) =>
  document.readyState === "loading" ? addEventListener("DOMContentLoaded", done) : done(),
).then(keep);

const request = (headers, signal) => {
  if (client.position) headers["Last-Event-ID"] = client.position;
  return fetch(url, { cache: "no-store", headers, signal, keepalive: !signal });
};

const drop = () => {
  clearTimeout(timer);
  link?.abort();
  link = timer = null;
};

const stop = (status, detail) => {
  over = 1;
  drop();
  show(status, detail);
};

const finish = (detail) => {
  const [worst] = failed.values();
  stop(worst ? "failed" : "ended", worst || detail);
};

const later = (ms) => {
  drop();
  timer = setTimeout(connect, ms);
  show("reconnecting");
};

const connect = async () => {
  drop();
  if (over) return;
  const mine = (link = new AbortController());
  heard = now();
  show(client.status ? "reconnecting" : "connecting");
  try {
    const type = healing ? "text/html" : stream;
    const response = await request({ Accept: type }, mine.signal);
    const html = healing && (await response.text());
    await ready;
    if (mine !== link) return;
    if (response.status === 204) return finish();
    if (/5..|408|425|429/.test(response.status)) throw 0;
    const moved = response.redirected && response.url !== url;
    if (moved || !response.ok || !response.headers.get("Content-Type")?.startsWith(type)) return stop("denied");
    if (healing) {
      const fresh = swap(html);
      if (fresh === undefined) return stop("denied");
      healing = 0;
      client.position = fresh;
      seqs = new Map();
      return connect();
    }
    const feed = decoder((event, data, id, asked) => {
      if (mine !== link) return;
      retry = asked || retry;
      beforehand();
      if (event === "message") {
        heals = 0;
        if (into) apply("", [["text", into, data]]);
        fire("live:message", { data });
      } else blocks[event]?.(data.split("\n").map((line) => JSON.parse(line)));
      follow();
      // An id is the promise that everything up to it was applied.
      if (id) client.position = id;
    });
    const reader = response.body.getReader();
    for (let read; !(read = await reader.read()).done; feed(read.value)) heard = now();
  } catch {
    // a cut, an abort, a refused connection, a gap, a block that was mangled: all the same
  }
  if (mine === link) later(backoff(retry, failures++));
};

// What each type of block does, with its lines of data. One that throws was not applied.
const blocks = {
  __proto__: null,
  hello([detail]) {
    if (detail.v !== 1) {
      again();
      throw 0; // nothing of this stream is for us
    }
    failures = 0;
    ({ heartbeat, into } = detail);
    open = new Set(detail.channels);
    show("live");
  },
  patch(lines, all) {
    heals = 0;
    // Something between may be missing: once more from the position.
    for (const [channel, seq, , since = seq - 1] of lines) if (!all && since > seqs.get(channel)) throw 0;
    for (const [channel, seq, patches, since] of lines) {
      if (all) restore(channel);
      seqs.set(channel, seq);
      failed.delete(channel);
      apply(channel, patches, all || since === 0);
    }
  },
  snapshot: (lines) => blocks.patch(lines, 1),
  reset([{ channel }]) {
    restore(channel);
    restore("");
    seqs.delete(channel);
    failed.delete(channel);
  },
  refresh() {
    healing = 1;
    // all open pages are told at the same time; one that is told again and again waits longer
    later(backoff(500, heals++));
  },
  end([detail]) {
    fire("live:end", detail);
    open.delete(detail.channel);
    if (detail.status === "failed") failed.set(detail.channel, detail);
    if (!open.size) finish(detail);
  },
  bye: ([detail]) => later(detail.retry * (1 + Math.random())),
};

// Says that this page will not come back, so that a loop of its own ends at once and not after a while.
const leave = () => {
  if (open?.has("~")) request({ Accept: stream, "Al-Close": "1" }).catch(() => {});
};

// Timers stand still in a laptop that sleeps, so silence is also looked for when the page is looked at again.
const check = () => {
  if (link && now() - heard > heartbeat * 2500) connect();
};

const resume = () => (link || timer ? check() : connect());

// On HTTP/1.1 a browser has six connections for all tabs of a host, so a hidden tab lets its go. Not that of a loop
// of its own: it would be ended, and begin anew when the tab is looked at.
let hiding;
const seen = () => {
  clearTimeout(hiding);
  if (document.hidden)
    hiding = setTimeout(() => {
      if (over || open?.has("~") || performance.getEntriesByType("navigation")[0]?.nextHopProtocol !== "http/1.1") return;
      drop();
      show("reconnecting");
    }, 1e4);
  else resume();
};

setInterval(check, 5e3);
document.addEventListener("visibilitychange", seen);
addEventListener("online", () => (link || timer) && connect());
addEventListener("pagehide", ({ persisted }) => {
  if (!persisted) leave();
  drop();
});
addEventListener("pageshow", resume);
ready.then(follow);
// what scrolls only with its style sheet
addEventListener("load", () => follow(beforehand()));
connect();
seen();
