// The stream: connects, reads blocks, and comes back after every interruption with the position it had.
import { decoder } from "./decoder.js";
import { apply, fire, ready, restore, swap } from "./page.js";

const url = location.href;
const root = document.documentElement;
const now = () => performance.now();

let position;
let status;
let connection; // the AbortController of the present connection
let timer;
let retry = 2000; // ms
let delay; // ms that the server asked for
let failures = 0;
let heartbeat = 20; // s
let heard;
let into;
let open; // channels that are not over
let seqs = {};
let outcome;
let stopped;

const show = (next, detail) => {
  if (next === status) return;
  status = root.dataset.live = next;
  fire("status", { status, ...detail });
};

const get = (headers, options) =>
  fetch(url, { headers, cache: "no-store", credentials: "same-origin", ...options });

const drop = () => {
  clearTimeout(timer);
  const was = connection;
  connection = null;
  was?.abort();
};

const stop = (next, detail) => {
  stopped = 1;
  drop();
  show(next, detail);
};

const again = () => {
  drop();
  if (stopped) return;
  show("reconnecting");
  // full jitter: pages that lost one server together do not come back together
  const most = delay || Math.min(3e4, retry * 2 ** failures++);
  timer = setTimeout(connect, delay ? delay * (1 + Math.random()) : most * Math.random());
  delay = 0;
};

const refused = (response) => !response.ok && response.status < 500 && ![408, 425, 429].includes(response.status);

export const connect = async () => {
  drop();
  if (stopped) return;
  show(status ? "reconnecting" : "connecting");
  const mine = (connection = new AbortController());
  heard = now();
  try {
    const headers = { Accept: "text/event-stream" };
    if (position) headers["Last-Event-ID"] = position;
    const response = await get(headers, { signal: mine.signal });
    if (response.status === 204) return stop(outcome || "ended");
    const stream = /^text\/event-stream/.test(response.headers.get("content-type"));
    if (refused(response) || (response.ok && !stream)) return stop("denied");
    if (!response.ok) throw 0;
    await ready;
    const feed = decoder((event, data, id) => {
      if (mine !== connection) return;
      block(event, data);
      if (mine === connection && id) position = id;
    });
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (mine !== connection) return;
      if (done) break;
      heard = now();
      feed(value);
    }
  } catch {
    // a cut, an abort, a refused connection: all the same
  }
  if (mine === connection) again();
};

const lines = (data) => data.split("\n").map((line) => JSON.parse(line));

const block = (event, data) => {
  if (event === "message") {
    if (into) apply("", [["text", into, data]]);
    fire("message", { data });
    return;
  }
  if (event === "patch" || event === "snapshot") {
    const found = lines(data);
    const whole = event === "snapshot";
    if (!whole && found.some(([channel, seq, , since = seq - 1]) => since > (seqs[channel] ?? since))) {
      // something between was not received: from the position again
      again();
      return;
    }
    for (const [channel, seq, patches, since] of found) {
      if (whole) restore(channel);
      seqs[channel] = seq;
      apply(channel, patches, whole || since === 0);
    }
    return;
  }
  const detail = JSON.parse(data);
  if (event === "hello") {
    failures = 0;
    heartbeat = detail.heartbeat;
    into = detail.into;
    open = new Set(detail.channels);
    show("live");
  } else if (event === "reset") {
    restore(detail.channel);
    restore("");
    delete seqs[detail.channel];
  } else if (event === "refresh") {
    drop();
    show("reconnecting");
    timer = setTimeout(refresh, Math.random() * 500);
  } else if (event === "end") {
    fire("end", detail);
    open.delete(detail.channel);
    if (detail.status === "failed") outcome = "failed";
    if (!open.size) stop(outcome || "ended", detail);
  } else if (event === "bye") {
    delay = detail.retry;
  }
};

// The page's own HTML is the snapshot.
const refresh = async () => {
  try {
    const response = await get({ Accept: "text/html" });
    if (refused(response)) return stop("denied");
    if (!response.ok) throw 0;
    const html = await response.text();
    const fresh = swap(html);
    if (fresh === undefined) return stop("denied");
    position = fresh;
    seqs = {};
    connect();
  } catch {
    drop();
    timer = setTimeout(refresh, Math.min(3e4, retry * 2 ** failures++) * Math.random());
  }
};

// Says that this page will not come back, so that a loop of its own ends at once.
const leave = () => {
  if (open?.has("~") && position)
    get({ Accept: "text/event-stream", "Last-Event-ID": position, "Al-Close": "1" }, { keepalive: true }).catch(() => {});
};

const check = () => {
  if (connection && now() - heard > heartbeat * 2500) connect();
};

// Six connections a host are all that a browser has on HTTP/1.1, so a hidden tab lets its go. Not that of a loop of
// its own, which would be ended.
let letGo;
const hide = () => {
  const [page] = performance.getEntriesByType("navigation");
  if (connection && page?.nextHopProtocol === "http/1.1" && !open?.has("~")) {
    drop();
    letGo = 1;
    show("reconnecting");
  }
};
let hiding;
const visible = () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(hide, 1e4);
  else if (letGo) {
    letGo = 0;
    connect();
  } else check();
};

export const start = (first) => {
  position = first;
  setInterval(check, 5000);
  document.addEventListener("visibilitychange", visible);
  addEventListener("online", () => {
    check();
    if (!connection && !stopped && status === "reconnecting" && !letGo) connect();
  });
  addEventListener("pagehide", ({ persisted }) => {
    if (!persisted) leave();
    drop();
  });
  addEventListener("pageshow", ({ persisted }) => {
    if (persisted) connect();
  });
  connect();
};

export const control = {
  get status() {
    return status;
  },
  get position() {
    return position;
  },
  close() {
    if (stopped) return;
    leave();
    stop("ended");
  },
  open() {
    if (!stopped) return;
    stopped = 0;
    connect();
  },
};
