// Brings an element to other content, and leaves what need not change as it is: focus, caret, typed text, scroll,
// what is open, what is checked. Typed text is kept because it is a property, and only attributes are set.

// Not element.id: in a form with <input name="id"> that is the input.
export const idOf = (node) => (node.getAttribute && node.getAttribute("id")) || "";

export const alike = (a, b) => a.nodeName === b.nodeName && idOf(a) === idOf(b);

const ignored = (node) => !!node.hasAttribute?.("data-live-ignore");

// What is left alone: ids for their content, ids with a space behind for their attributes.
const none = new Set();

export const morphChildren = (live, want, kept = none) => {
  const wanted = new Set([...want.children].map(idOf));
  const keyed = new Map();
  for (const child of [...live.children]) {
    // What goes, goes first: what is behind it is then in its place, and need not be moved.
    if (wanted.has(idOf(child))) keyed.set(idOf(child), child);
    else if (idOf(child)) drop(child);
  }
  let at = live.firstChild; // all before it is done
  const pass = (act) => {
    const next = at.nextSibling;
    act(at);
    at = next;
  };
  for (const node of want.childNodes) {
    const id = idOf(node);
    let match = id ? keyed.get(id) : at;
    if (!id && node.nodeType === 1)
      while (match && (!alike(match, node) || ignored(match) !== ignored(node))) match = match.nextSibling;
    if (!match || !alike(match, node)) {
      live.insertBefore(document.importNode(node, true), at);
      continue;
    }
    keyed.delete(id);
    // Moving an element takes its focus away, so the others are moved out of its way.
    while (at !== match && (at.nodeType !== 1 || match.contains(document.activeElement)))
      pass((node) => (node.nodeType === 1 ? live.append(node) : node.remove()));
    if (at === match) at = at.nextSibling;
    else live.insertBefore(match, at);
    morph(match, node, kept);
  }
  while (at) pass(drop);
};

const drop = (node) => ignored(node) || node.remove();

export const morph = (live, want, kept = none) => {
  if (live.nodeType !== 1) {
    if (live.data !== want.data) live.data = want.data;
    return;
  }
  // A script has run or never will; Trusted Types would have a say in changing it.
  if (ignored(live) || live.nodeName === "SCRIPT") return;
  const id = idOf(live);
  if (!kept.has(id + " ")) {
    // What the reader opened stays open.
    for (const { name, value } of want.attributes)
      if (name !== "open" && live.getAttribute(name) !== value) live.setAttribute(name, value);
    for (const { name } of [...live.attributes])
      if (name !== "open" && !want.hasAttribute(name)) live.removeAttribute(name);
  }
  if (!kept.has(id)) morphChildren(live, want, kept);
};
