// The connection: goes from wire to wire until one works, says what each block does, and comes back after every
// interruption with the position it had.
//
//              ┌── the next wire: no hello in time, or no WebSocket
//              ▼ │
//          connect ──hello──▶ live ──end of all, 204──▶ over (ended, failed)
//           ▲   │              │
//     timer │   │ cut, silence, gap, bye, refresh
//           └───┴──────────────┘          4xx, not what was asked for, another page ──▶ over (denied)
//
// At most one of `link` (a wire is in use) and `timer` (one will be) is set; with neither the page has let go (hidden,
// in the back/forward cache, over). `healing` says that the next request is for the page's HTML.
//
// A handshake of a WebSocket that fails does not say why. The wire behind it finds out: a server that is down, or says
// no, says so to that one. So only when another wire says hello it is known that those before it do not work here.
import { again } from "./again.js";
import { actions } from "./actions.js";
import { backoff } from "./backoff.js";
import { fire, show as tell } from "./events.js";
import { order, remember, scarce } from "./order.js";
import { apply, beforehand, follow } from "./page.js";
import { keep, restore, swap } from "./served.js";
import { wires } from "./wires.js";

const url = location.href.split("#")[0];

let link;
let timer;
let over;
let healing;
let wire; // in use
let tries; // those behind it
let passed; // those before it, which gave no hello
let greeted; // by the server, on this link
let retry = 500; // ms, until the server says
let failures = 0;
let heals = 0;
let heartbeat = 20; // s
let heard;
let into;
let open; // names of the channels that are not over
let painted; // names of the channels whose state the page was served with
let seqs = new Map(); // channel -> the number of its last entry
const failed = new Map();
const worked = {}; // wires, in this page


const client = (window.afterload = {
  actions,
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

// What the page was served with, as its script element says.
const served = (data) => {
  client.position = data.position || "0"; // of nothing yet
  painted = JSON.parse(data.painted || "[]");
};
served(document.currentScript?.dataset || {});

const show = (status, detail) => tell(client, status, { ...detail, wire: client.wire });

const ready = new Promise((done) =>
  document.readyState === "loading" ? addEventListener("DOMContentLoaded", done) : done(),
).then(keep);

const request = (headers, signal) =>
  fetch(url, {
    cache: "no-store",
    headers: { ...headers, "Last-Event-ID": client.position },
    signal,
    keepalive: !signal,
  });

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

const later = (ms = backoff(retry, failures++)) => {
  drop();
  timer = setTimeout(connect, ms);
  show("reconnecting");
};

const fall = () => {
  passed.push(wire);
  tries[0] ? connect(1) : later();
};

const connect = async (next) => {
  drop();
  if (over) return;
  if (!next) {
    passed = [];
    tries = order(worked);
  }
  wire = tries.shift();
  const mine = (link = new AbortController());
  greeted = healing; // no wire is on trial
  ready.then(() => {
    heard = performance.now(); // not the clock of the day, which is set
  });

  const here = () => {
    if (mine !== link) throw 0;
  };
  const alive = async () => {
    await ready;
    here();
    if (greeted) heard = performance.now(); // else what comes may be all but a hello, for ever
  };
  const get = async (type, feed, headers) => {
    const response = await request({ ...headers, Accept: type }, mine.signal);
    await alive();
    const json = type.endsWith("json");
    if (/5..|408|425|429/.test(response.status)) throw 0;
    if (response.status === 204) {
      if (!json) throw finish();
      return greet();
    }
    const moved = response.redirected && response.url !== url;
    if (moved || !response.ok || !response.headers.get("Content-Type")?.startsWith(type)) throw stop("denied");
    greeted ||= json; // it is all on its way
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let piece; !(piece = await reader.read()).done; feed(piece.value)) await alive();
  };
  const take = (event, data, id, asked) => {
    here();
    retry = asked || retry;
    beforehand();
    const lines = () => (event === "message" ? [data] : data.split("\n").map((line) => JSON.parse(line)));
    blocks[event]?.(data.map ? data : lines());
    follow();
    // An id is the promise that everything up to it was applied.
    if (id) client.position = id;
  };

  try {
    if (!next) show(client.status ? "reconnecting" : "connecting");
    here(); // it may have been told to close
    if (healing) {
      let html = "";
      await get("text/html", (piece) => (html += piece));
      const fresh = swap(html);
      if (!fresh) throw stop("denied");
      healing = 0;
      served(fresh);
      seqs = new Map();
      return connect();
    }
    await wires[wire](get, take, alive, mine, url, client.position);
  } catch {
    // a cut, an abort, a refused connection, a gap, a block that was mangled: all the same
  }
  if (mine === link) wire === "websocket" && !greeted ? fall() : later();
};

const greet = () => {
  heard = performance.now();
  greeted = 1;
  failures = 0;
  worked[(client.wire = wire)] = 1;
  for (const other of passed.splice(0)) worked[other] || remember(other);
  seen();
  show("live");
};

// What each type of block does, with its lines of data. One that throws was not applied.
const blocks = {
  __proto__: null,
  hello([detail]) {
    if (detail.v !== 1) throw again(); // nothing of this is for us
    ({ heartbeat, into } = detail);
    open = new Set(detail.channels);
    greet();
  },
  message([data]) {
    heals = 0;
    if (into) apply("", [["text", into, data]]);
    fire("live:message", { data });
  },
  patch(lines, all) {
    // Something between may be missing: once more from the position.
    for (const [channel, seq, , since = seq - 1] of lines) if (!all && since > seqs.get(channel)) throw 0;
    for (const [channel, seq, patches, since] of lines) {
      if (all) clear(channel);
      seqs.set(channel, seq);
      apply(channel, patches, all || since === 0);
    }
    heals = 0;
  },
  snapshot: (lines) => blocks.patch(lines, 1),
  reset([{ channel }]) {
    clear(channel);
    restore("");
    seqs.delete(channel);
  },
  refresh() {
    healing = 1;
    // all open pages are told at the same time; one that is told again and again waits longer
    throw later(backoff(500, heals++));
  },
  end([detail]) {
    fire("live:end", detail);
    open.delete(detail.channel);
    failed.delete(detail.channel); // of a run before
    if (detail.status === "failed") failed.set(detail.channel, detail);
    if (!open.size) finish(detail);
  },
  bye: ([detail]) => later(detail.retry * (1 + Math.random())),
};

// What the page was served with is itself a state where it was painted, and void now.
const clear = (channel) => (painted.includes(channel) ? blocks.refresh() : restore(channel));

// Says that this page will not come back, so that a loop of its own ends at once and not after a while.
const leave = () => {
  if (open?.has("~")) request({ Accept: "text/event-stream", "Al-Close": "1" }).catch(() => {});
};

// Timers stand still in a laptop that sleeps, so silence is also looked for when the page is looked at again. A server
// that has many pages to greet at once is given more time, and not asked by all of them over every wire.
const check = () => {
  if (link && performance.now() - heard > (greeted ? heartbeat * 2500 : backoff(5e3, failures, 1)))
    greeted ? connect() : fall();
};

const resume = () => (link || timer ? check() : connect());

// A hidden tab lets go of the connection that another may need. Not that of a loop of its own: it would be ended, and
// begin anew when the tab is looked at.
let hiding;
const seen = () => {
  if (!document.hidden) {
    hiding = clearTimeout(hiding);
    resume();
  } else
    hiding ||= setTimeout(() => {
      hiding = 0;
      if (over || open?.has("~") || wire === "websocket" || !scarce()) return;
      drop();
      show("reconnecting");
    }, 1e4);
};

setInterval(check, 1e3);
// What has worked may have failed just once: a page is not to go on by the next best, and poll for good.
setInterval(() => link && order(worked)[0] !== wire && connect(), 1e6);
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
