// What the page was served with, and what each channel has changed since: enough to put that back, or to bring the
// page to newer HTML. An element is known by its id; one without is part of the nearest around it that has one, and
// the body stands for all that is in none.
import { parse } from "./html.js";
import { idOf, morph, morphChildren, setAttribute } from "./morph.js";

let served;
// channel -> key -> [id, how to make an element as another is, name]. A key is the id for all the content, and has a
// blank and more behind it for less than that.
let touched = new Map();

export const ready = new Promise((done) =>
  document.readyState === "loading" ? addEventListener("DOMContentLoaded", done) : done(),
).then(() => {
  served = document.documentElement.outerHTML;
});

const find = (page, id) => (id ? page.getElementById(id) : page.body);
const around = (node) => node?.closest?.("[id],body");

// What need not be put back with all that is around it.
const single = {
  __proto__: null,
  attr: (live, want, name) => setAttribute(live, name, want.getAttribute(name)),
  class: (live, want, name) => live.classList.toggle(name, want.classList.contains(name)),
  value(live, want) {
    live.value = want.value;
  },
};
const title = (_, want) => {
  document.title = want.ownerDocument.title;
};

export const touch = (channel, element, action, name) => {
  if (/^(navigate|reload|dispatch)$/.test(action)) return;
  if (!touched.has(channel)) touched.set(channel, new Map());
  const marks = touched.get(channel);
  if (!element) return marks.set(" ", ["", title]);
  if (/^(re(move|place)|before|after)$/.test(action)) element = element.parentNode;
  const host = around(element);
  const id = idOf(host);
  const part = host === element && single[action];
  // What is in content that is put back as a whole need not be remembered by itself.
  if (action !== "value") for (let up = host; (up = around(up?.parentNode)); ) if (marks.has(idOf(up))) return;
  if (part) marks.set(id + " " + action + name, [id, part, name]);
  else marks.set(id, [id, morphChildren]);
};

const putBack = (marks, page, kept) => {
  for (const [id, make, name] of marks.values()) {
    const live = find(document, id);
    const want = find(page, id);
    // Not there any more, or not served: then what it is or was in is among the marks too.
    if (live && want) make(live, want, name || kept);
  }
};

// Puts back what the page was served with wherever the channel has changed it, but not what others have.
export const restore = (channel) => {
  const marks = touched.get(channel);
  if (!marks) return;
  touched.delete(channel);
  const kept = new Set();
  for (const others of touched.values()) for (const key of others.keys()) if (/^\S/.test(key)) kept.add(key.replace(/ .*/, " "));
  putBack(marks, parse(served), kept);
};

// An element's own HTML: that of others with ids in it is theirs, and scripts are not shown.
const own = (element) => {
  const copy = element?.cloneNode(true);
  for (const inner of copy?.querySelectorAll("[id],script") || []) idOf(inner) ? inner.replaceChildren() : inner.remove();
  return copy?.outerHTML;
};

// Brings the page to newer HTML of its own, wherever the server's has changed or a patch has touched it. What is the
// same in both is left alone: it may be the work of the page's own scripts. Returns the new position, or undefined
// where that HTML is no page of ours.
export const swap = (html) => {
  const page = parse(html);
  const position = page.querySelector("script[data-position]")?.dataset.position;
  if (position !== undefined) {
    const old = parse(served);
    // In the order of the document: what is new is there before what is in it is looked at.
    for (const want of [page.body, ...page.body.querySelectorAll("[id]")]) {
      const id = want === page.body ? "" : idOf(want);
      const live = find(document, id);
      if (live && own(want) !== own(find(old, id))) morph(live, want);
    }
    for (const marks of touched.values()) putBack(marks, page);
    document.title = page.title;
    served = html;
    touched = new Map();
  }
  return position;
};
