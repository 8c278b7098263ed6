// What the page was served with, and what each channel has changed since: enough to put that back, or to bring the
// page to newer HTML. An element is known by its id; one without is part of the nearest around it that has one, and
// the body stands for all that is in none.
import { parse } from "./html.js";
import { idOf, morph, morphChildren, setAttribute } from "./morph.js";

let served; // a document
// channel -> key -> [id, part, name]: what it has changed. A key is the id for all the content, and has a blank and
// more behind it for a part of an element.
let touched = new Map();

// Called when that is in the document, before anything is changed.
export const keep = () => {
  served = document.cloneNode(true);
};

const find = (page, id) => (id ? page.getElementById(id) : page.body);

// How an element is made as another is, in part.
const parts = {
  __proto__: null,
  attr: (live, want, name) => setAttribute(live, name, want.getAttribute(name)),
  class: (live, want, name) => live.classList.toggle(name, want.classList.contains(name)),
  value(live, want) {
    live.value = want.value;
  },
  title(_, want) {
    document.title = want.ownerDocument.title;
  },
};

export const touch = (channel, element, action, name) => {
  if (element ? action === "dispatch" : action !== "title") return;
  element ||= document.body;
  const changed = /^(re(move|place)|before|after)$/.test(action) ? element.parentNode : element;
  const host = changed?.closest?.("[id],body");
  const id = idOf(host);
  const part = host === element && parts[action];
  // What was not served goes with what it was brought into; so there are no more marks than the page has places.
  if (!find(served, id)) return;
  if (!touched.has(channel)) touched.set(channel, new Map());
  touched.get(channel).set(part ? id + " " + action + name : id, [id, part || morphChildren, part && name]);
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
  for (const others of touched.values())
    for (const key of others.keys()) if (/^\S/.test(key)) kept.add(key.replace(/ .*/, " "));
  putBack(marks, served, kept);
};

// An element's own HTML: others with ids in it speak for themselves, and scripts are not shown.
const own = (element) => {
  const copy = element.cloneNode(true);
  for (const inner of copy.querySelectorAll("[id],script")) inner.replaceWith(inner.nodeName + idOf(inner));
  return copy.outerHTML;
};

// Brings the page to newer HTML of its own, wherever the server's has changed or a patch has touched it. What is the
// same in both is left alone: it may be the work of the page's own scripts. Returns what its script element says, or
// undefined where that HTML is no page of ours.
export const swap = (html) => {
  const page = parse(html);
  const said = page.querySelector("script[data-position]")?.dataset;
  if (said) {
    // In the order of the document: what is new is there before what is in it is looked at.
    for (const want of page.querySelectorAll("body,body [id]")) {
      const id = want === page.body ? "" : idOf(want);
      const live = find(document, id);
      const was = find(served, id);
      if (live && (!was || own(want) !== own(was))) morph(live, want);
    }
    for (const marks of touched.values()) putBack(marks, page);
    document.title = page.title;
    served = page;
    touched = new Map();
  }
  return said;
};
