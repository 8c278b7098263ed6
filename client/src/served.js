// What the page was served with, and what each channel has changed since: enough to put that back, or to bring the
// page to newer HTML. An element is known by its id; one without is part of the nearest around it that has one, and
// the body stands for all that is in none.
import { actions } from "./actions.js";
import { parse } from "./html.js";
import { idOf, morph, morphChildren } from "./morph.js";

let served;
let touched = { __proto__: null }; // channel -> key -> [id, action or "" for the content, name]

export const ready = new Promise((resolve) => {
  const keep = () => resolve((served = document.documentElement.outerHTML));
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", keep);
  else keep();
});

const find = (page, id) => (id ? page.getElementById(id) : page.body);
const around = (node) => node.closest?.("body [id]");
const nameOf = (host) => (host ? idOf(host) : "");

export const touch = (channel, element, action, name) => {
  if (/^(navigate|reload|dispatch)$/.test(action)) return;
  const marks = (touched[channel] ||= new Map());
  let host;
  if (element) {
    if (/^(re(move|place)|before|after)$/.test(action)) element = element.parentNode;
    host = around(element);
    if (host !== element || !/^(attr|class|value)$/.test(action)) action = "";
  }
  // What is in content that is put back as a whole need not be remembered by itself.
  if (action !== "value")
    for (let up = host; up; ) {
      up = around(up.parentNode);
      if (marks.has(nameOf(up) + "  ")) return;
    }
  const mark = [nameOf(host), action, action && name];
  marks.set(mark.join(" "), mark);
};

// Puts back what the page was served with wherever the channel has changed it, but not what others have.
export const restore = (channel) => {
  const marks = touched[channel];
  if (!marks) return;
  delete touched[channel];
  const kept = new Set();
  for (const other of Object.values(touched))
    for (const [id, action] of other.values()) if (id) kept.add(action ? id + " " : id);
  const page = parse(served);
  for (const [id, action, name] of marks.values()) {
    const live = find(document, id);
    const want = find(page, id);
    // Not there any more, or not served: then what it is or was in is among the marks too.
    if (!live || !want) continue;
    if (!action) morphChildren(live, want, kept);
    else if (action === "title") document.title = page.title;
    else if (action === "value") live.value = want.value;
    else if (action === "class") live.classList.toggle(name, want.classList.contains(name));
    else if (want.hasAttribute(name)) live.setAttribute(name, want.getAttribute(name));
    else live.removeAttribute(name);
  }
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
  if (position === undefined) return;
  const old = parse(served);
  const marks = Object.values(touched).flatMap((marks) => [...marks.values()]);
  const ids = new Set(marks.map(([id]) => id));
  // In the order of the document: what is new is there before what is in it is looked at.
  for (const want of [page.body, ...page.body.querySelectorAll("[id]")]) {
    const id = want === page.body ? "" : idOf(want);
    const live = find(document, id);
    if (live && (ids.has(id) || own(want) !== own(find(old, id)))) morph(live, want);
  }
  for (const [id, action] of marks) if (action === "value" && find(page, id)) find(document, id).value = find(page, id).value;
  document.title = page.title;
  served = html;
  touched = { __proto__: null };
  return position;
};
