// Brings an element to other content, and leaves what need not change as it is: focus, caret, typed text, scroll,
// what is open, what is checked. Typed text is kept because it is a property, and only attributes are set.

// Not element.id: in a form with <input name="id"> that is the input.
export const idOf = (node) => node?.getAttribute?.("id") || "";

export const byId = (parent) => new Map([...parent.childNodes].filter(idOf).map((child) => [idOf(child), child]));

export const setAttribute = (element, name, value) => {
  if (value === null) element.removeAttribute(name);
  else if (value !== element.getAttribute(name)) element.setAttribute(name, value);
};

export const isElement = (node) => node.nodeType === 1;
const ignored = (node) => node.matches?.("[data-live-ignore]");

// What may become the other: the same element, or one of the same kind where neither has an id.
const kind = (node) => node.nodeName + " " + (idOf(node) || (ignored(node) ? " " : ""));
export const alike = (a, b) => kind(a) === kind(b);

const drop = (node) => ignored(node) || node.remove();

// `kept` is what is left alone: ids for their content, ids with a blank behind for their attributes.
export const morphChildren = (live, want, kept) => {
  const keyed = byId(live);
  const wanted = byId(want);
  // What goes, goes first: what is behind it is then in its place, and need not be moved.
  for (const [id, child] of keyed) if (!wanted.has(id)) drop(child);
  let at = live.firstChild; // all before it is done
  const pass = (act) => {
    const next = at.nextSibling;
    act(at);
    at = next;
  };
  for (const node of want.childNodes) {
    const id = idOf(node);
    let match = id ? keyed.get(id) : at;
    while (match && !alike(match, node)) match = !id && isElement(node) && match.nextSibling;
    if (match) {
      keyed.delete(id);
      // Moving an element takes its focus away, so the others are moved out of its way.
      // So is text, which goes in the end, or is what is wanted later.
      while (at !== match && (!isElement(at) || match.contains(document.activeElement)))
        pass((node) => live.append(node));
      if (at === match) at = at.nextSibling;
      else live.insertBefore(match, at);
      morph(match, node, kept);
    } else live.insertBefore(node.cloneNode(true), at);
  }
  while (at) pass(drop);
};

export const morph = (live, want, kept) => {
  if (!isElement(live)) {
    if (live.data !== want.data) live.data = want.data;
  } else if (!ignored(live) && live.nodeName !== "SCRIPT") {
    // A script has run or never will; Trusted Types would have a say in changing it.
    if (!kept?.has(idOf(live) + " ")) {
      // What the reader opened stays open.
      for (const { name } of [...live.attributes, ...want.attributes])
        if (name !== "open") setAttribute(live, name, want.getAttribute(name));
    }
    if (!kept?.has(idOf(live))) morphChildren(live, want, kept);
  }
};
