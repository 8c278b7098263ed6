// The script of a document that goes on updating itself. It stands where the updates begin, and runs while the rest is
// still to come: each block is an element <af-p p="[event, ...lines]">, which removes itself and applies what it says.
//
//          hello ──▶ live ──end of all, complete──▶ ended, failed
//                     │
//                     └── the document is over without `complete`, bye, silence ──▶ interrupted
//
// What is missing cannot be asked for again, so a gap is none of its business; only `complete` says that all is there.
import { actions } from "./actions.js";
import { again } from "./again.js";
import { fire, show as tell } from "./events.js";
import { apply, beforehand, follow } from "./page.js";
import { keep, restore } from "./served.js";

let over;
let whole;
let heartbeat = 0; // s; 0: there is none
let heard;
let timer; // until it is loaded again
let into;
let open = new Set(); // names of the channels that are not over
let own; // it follows a loop of its own, which would begin anew if the page was loaded again
let last; // of the ends
const failed = new Map();

const client = (window.afterload = {
  actions,
  close() {
    clearTimeout(timer);
    if (over) return;
    over = 1;
    stop(); // of the window: nothing more is loaded
    show("ended");
  },
});

// What a reader sees whose page says nothing of it; a listener that prevents it says so itself.
let notice;
const show = (status, detail) => {
  const shown = tell(client, status, detail);
  if (status === "live") notice?.remove();
  if (!shown || status === "live" || status === "ended") return;
  notice = document.getElementById("af-failed") || document.createElement("p");
  notice.id = "af-failed";
  notice.role = "alert";
  notice.style.cssText = "position:sticky;bottom:0;background:Canvas;color:CanvasText";
  notice.textContent = detail?.message || "The connection was lost. Load this page again.";
  document.body.append(notice);
};

const interrupt = (detail) => over || show("interrupted", detail);

// Once the server answers: a page that is loaded while it does not is gone.
const back = (wait) => {
  timer = setTimeout(
    () =>
      fetch(location.href, { method: "HEAD", cache: "no-store" })
        .then(({ status }) => (status < 500 ? location.reload() : Promise.reject()))
        .catch(() => wait < 6e5 && back(2 * wait)),
    wait * (1 + Math.random()),
  );
};

const blocks = {
  __proto__: null,
  hello(detail) {
    over = detail.v !== 1; // else nothing of this is for us
    if (over) return;
    ({ heartbeat, into } = detail);
    open = new Set(detail.channels);
    own = open.has("~");
  },
  message(data) {
    if (into) apply("", [["text", into, data]]);
    fire("live:message", { data });
  },
  patch(...lines) {
    for (const [channel, , patches, since] of lines) apply(channel, patches, since === 0);
  },
  snapshot(...lines) {
    for (const [channel, , patches] of lines) {
      restore(channel);
      apply(channel, patches, 1);
    }
  },
  reset({ channel }) {
    restore(channel);
    restore("");
  },
  refresh() {
    if (again()) return;
    interrupt();
    over = 1;
  },
  end(detail) {
    last = detail;
    open.delete(detail.channel);
    failed.delete(detail.channel); // of a run before
    if (detail.status === "failed") failed.set(detail.channel, detail);
    fire("live:end", detail);
  },
  bye(detail) {
    interrupt(detail);
    if (!own) back(detail.retry);
    over = 1;
  },
  complete() {
    const [worst] = failed.values();
    whole = over = 1;
    show(open.size ? "interrupted" : worst ? "failed" : "ended", worst || last);
  },
};

const block = (said) => {
  heard = performance.now();
  try {
    const [event, ...lines] = JSON.parse(said);
    beforehand();
    blocks[event]?.(...lines);
    follow();
  } catch (error) {
    console.error("afterload:", said, error);
    fire("live:error", { error });
  }
  if (!over && open.size) show("live");
};

// Stopped by its reader or cut by the network, it is over as if it were whole.
document.addEventListener("readystatechange", () => {
  if (document.readyState === "loading" || whole) return;
  interrupt();
  over = 1;
});
setInterval(() => {
  if (heartbeat && performance.now() - heard > heartbeat * 2500) interrupt();
}, 1e3);

// What WebKit needs to paint early is nothing to be seen.
const padding = document.querySelector("svg[data-af]");
if (padding) padding.style.cssText = "position:absolute;z-index:-1;opacity:0";
keep();
customElements.define(
  "af-p",
  class extends HTMLElement {
    connectedCallback() {
      const said = this.getAttribute("p");
      // what is for browsers that run no scripts stands in a <div> that has to go too
      (said ? this : this.parentNode).remove();
      if (said && !over) block(said);
    }
  },
);
