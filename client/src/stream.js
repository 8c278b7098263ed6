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
// Other wires (WebSocket, long poll) have their place in `connect`: what they must do is call `read` with each
// block, and throw when they are cut.
import { backoff } from "./backoff.js";
import { decoder } from "./decoder.js";
import { apply, fire, follow, scrolledUp } from "./page.js";
import { ready, restore, swap } from "./served.js";

const url = location.href.split("#")[0];
const root = document.documentElement;
const now = () => performance.now(); // not the clock of the day, which is set

export const control = {
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
};

let link;
let timer;
let over;
let healing;
let retry = 500; // ms, until the server says
let wait; // ms, said by the server
let failures = 0;
let heals = 0;
let heartbeat = 20; // s
let heard;
let into;
let open; // names of the channels that are not over
let seqs = new Map(); // channel -> the number of its last entry
const failed = new Map();

const show = (next, detail) => {
  if (next === control.status) return;
  control.status = root.dataset.live = next;
  fire("status", { ...detail, status: next });
};

const get = (headers, options) => {
  if (control.position) headers["Last-Event-ID"] = control.position;
  return fetch(url, { cache: "no-store", headers, ...options });
};

const drop = () => {
  clearTimeout(timer);
  link?.abort();
  link = timer = null;
};

const stop = (next, detail) => {
  over = 1;
  drop();
  show(next, detail);
};

const finish = (detail) => {
  const [worst = detail] = failed.values();
  stop(failed.size ? "failed" : "ended", worst);
};

const later = (ms) => {
  drop();
  show("reconnecting");
  timer = setTimeout(connect, ms);
};

const again = () => {
  later(wait || backoff(retry, failures++));
  wait = 0;
};

const connect = async () => {
  drop();
  if (over) return;
  show(control.status ? "reconnecting" : "connecting");
  const mine = (link = new AbortController());
  heard = now();
  try {
    const type = healing ? "text/html" : "text/event-stream";
    const response = await get({ Accept: type }, { signal: mine.signal });
    const code = response.status;
    if (code === 204) return finish();
    if (code > 499 || [408, 425, 429].includes(code)) throw code;
    if (!response.headers.get("Content-Type")?.startsWith(type) || !response.ok || (response.redirected && response.url !== url))
      return stop("denied");
    if (healing) {
      const html = await response.text();
      await ready;
      if (mine !== link) return;
      const fresh = swap(html);
      if (fresh === undefined) return stop("denied");
      healing = 0;
      control.position = fresh;
      seqs = new Map();
      return connect();
    }
    const reader = response.body.getReader();
    const feed = decoder((event, data, id, asked) => {
      if (mine !== link) return;
      if (asked) retry = asked;
      const except = scrolledUp();
      const whole = read(event, data);
      follow(except);
      // An id is the promise that everything up to it was applied.
      if (whole !== 0 && id) control.position = id;
    });
    for (;;) {
      const { done, value } = await reader.read();
      await ready;
      if (mine !== link) return;
      if (done) break;
      heard = now();
      feed(value);
    }
  } catch {
    // a cut, an abort, a refused connection, a block that was mangled: all the same
  }
  if (mine === link) again();
};

// A page that cannot be brought to the present is loaded again, but not over and over.
const reload = () => {
  if (Date.now() - (sessionStorage.afterload || 0) < 6e4) throw 0;
  sessionStorage.afterload = Date.now();
  location.reload();
};

// Processes a block. 0: it was not applied.
const read = (event, data) => {
  if (event === "message") {
    heals = 0;
    if (into) apply("", [["text", into, data]]);
    fire("message", { data });
  } else if (event === "patch" || event === "snapshot") {
    heals = 0;
    const lines = data.split("\n").map((line) => JSON.parse(line));
    const all = event === "snapshot";
    if (!all && lines.some(([channel, seq, , since = seq - 1]) => since > (seqs.get(channel) ?? since))) {
      again(); // something between is missing: once more from the position
      return 0;
    }
    for (const [channel, seq, patches, since] of lines) {
      if (all) restore(channel);
      seqs.set(channel, seq);
      failed.delete(channel);
      apply(channel, patches, all || since === 0);
    }
  } else {
    const detail = JSON.parse(data);
    const { channel } = detail;
    if (event === "hello") {
      if (detail.v !== 1) reload();
      failures = 0;
      heartbeat = detail.heartbeat;
      into = detail.into;
      open = new Set(detail.channels);
      show("live");
    } else if (event === "reset") {
      restore(channel);
      restore("");
      seqs.delete(channel);
      failed.delete(channel);
    } else if (event === "refresh") {
      healing = 1;
      // all open pages are told at the same time; one that is told again and again waits longer
      later(backoff(500, heals++));
    } else if (event === "end") {
      fire("end", detail);
      open.delete(channel);
      if (detail.status === "failed") failed.set(channel, detail);
      if (!open.size) finish(detail);
    } else if (event === "bye") wait = detail.retry * (1 + Math.random());
  }
};

// Says that this page will not come back, so that a loop of its own ends at once and not after a while.
const leave = () => {
  if (open?.has("~")) get({ Accept: "text/event-stream", "Al-Close": "1" }, { keepalive: true }).catch(() => {});
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

export const start = (first) => {
  control.position = first;
  setInterval(check, 5e3);
  document.addEventListener("visibilitychange", seen);
  addEventListener("online", () => (link || timer) && connect());
  addEventListener("pagehide", ({ persisted }) => {
    if (!persisted) leave();
    drop();
  });
  addEventListener("pageshow", resume);
  ready.then(() => follow([]));
  connect();
  seen();
};
