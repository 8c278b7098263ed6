// The page: what patches do to it, and what it was served with.

const policy = window.trustedTypes?.createPolicy("afterload", { createHTML: (html) => html }) || {
  createHTML: (html) => html,
};
const byId = (id) => document.getElementById(id);
const parse = (html) => new DOMParser().parseFromString(policy.createHTML(html), "text/html");

const fragment = (html) => {
  // Scripts in a template are never run, also not when its content is moved into the page.
  const template = document.createElement("template");
  template.innerHTML = policy.createHTML(html);
  return template.content;
};

export const fire = (name, detail, target = document) =>
  target.dispatchEvent(new CustomEvent("live:" + name, { bubbles: true, cancelable: true, detail }));

// Morph: brings an element to other content and leaves what need not change as it is: focus, caret, typed text,
// scroll, and what has its id.

const alike = (a, b) => a.nodeName === b.nodeName && (a.id || "") === (b.id || "");

const morphChildren = (live, want) => {
  const keyed = new Map();
  for (const child of live.children) if (child.id) keyed.set(child.id, child);
  let at = live.firstChild;
  for (const node of [...want.childNodes]) {
    let match = node.id ? keyed.get(node.id) : at;
    if (!match || !alike(match, node)) {
      live.insertBefore(node, at);
      continue;
    }
    // Moving an element takes its focus away, so the others move around the focused one.
    if (match !== at && match.contains(document.activeElement)) {
      while (at !== match) {
        const next = at.nextSibling;
        live.append(at);
        at = next;
      }
    }
    if (match === at) at = at.nextSibling;
    else live.insertBefore(match, at);
    morph(match, node);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
};

const morph = (live, want) => {
  if (live.nodeType !== 1) {
    if (live.data !== want.data) live.data = want.data;
    return;
  }
  if (live.hasAttribute("data-live-ignore")) return;
  for (const { name, value } of want.attributes)
    if (live.getAttribute(name) !== value) live.setAttribute(name, value);
  for (const { name } of [...live.attributes])
    // what the reader opened stays open
    if (!want.hasAttribute(name) && name !== "open") live.removeAttribute(name);
  morphChildren(live, want);
};

// Actions

const unsafe = (name, value) =>
  /^(on|srcdoc$)/i.test(name) ||
  (/^(href|src|action|formaction|poster|data|cite|background|ping|manifest|xlink:href|srcset|imagesrcset)$/i.test(name) &&
    badUrl(value));
const badUrl = (url) => /^(?!https?:)[a-z][a-z0-9+.-]*:/i.test(("" + url).replace(/[\0- ]/g, ""));

const counted = (node) => node.nodeType === 1 || (node.nodeType === 3 && node.data.trim());

const add = (method) => (element, html, { keep }) => {
  const first = method === "append";
  const follow =
    element.hasAttribute("data-live-follow") &&
    element.scrollHeight - element.scrollTop - element.clientHeight < 4;
  const nodes = fragment(html);
  for (const node of nodes.children)
    for (const child of element.children)
      if (node.id && child.id === node.id) {
        child.remove();
        break;
      }
  element[method](nodes);
  if (keep) {
    const end = first ? "firstChild" : "lastChild";
    let count = [...element.childNodes].filter(counted).length;
    while (element[end] && (count > keep || !counted(element[end]))) {
      if (counted(element[end])) count--;
      element[end].remove();
    }
  }
  if (follow) element.scrollTop = element.scrollHeight;
};

export const actions = {
  text(element, content) {
    if (element.firstElementChild || element.textContent !== content) element.textContent = content;
  },
  html: (element, content) => morphChildren(element, fragment(content)),
  append: add("append"),
  prepend: add("prepend"),
  append_text(element, content) {
    const follow =
      element.hasAttribute("data-live-follow") &&
      element.scrollHeight - element.scrollTop - element.clientHeight < 4;
    if (element.lastChild?.nodeType === 3) element.lastChild.appendData(content);
    else if (content) element.append(content);
    if (follow) element.scrollTop = element.scrollHeight;
  },
  value(element, content) {
    if (element.value !== content) element.value = content;
  },
  attr(element, content, { name }) {
    if (content === null) element.removeAttribute(name);
    else if (unsafe(name, content)) throw Error("unsafe attribute " + name);
    else element.setAttribute(name, content);
  },
  class: (element, content, { name }) => element.classList.toggle(name, content),
  title(_, content) {
    document.title = content;
  },
  replace(element, content) {
    const nodes = fragment(content);
    if (nodes.childNodes.length === 1 && alike(element, nodes.firstChild)) morph(element, nodes.firstChild);
    else element.replaceWith(nodes);
  },
  remove: (element) => element.remove(),
  before: (element, content) => element.before(fragment(content)),
  after: (element, content) => element.after(fragment(content)),
  navigate(_, url) {
    if (!badUrl(url)) location.assign(url);
  },
  reload: () => location.reload(),
  dispatch: (element, detail, { name }) =>
    (element || document).dispatchEvent(new CustomEvent(name, { bubbles: true, detail })),
};

// What the page was served with, and what each channel has touched since: ids, or "" for the body, and for each
// whether its value was set.

let served;
let touched = {};
const warned = {};

export const ready = new Promise((resolve) => {
  const keep = () => {
    served = document.documentElement.outerHTML;
    resolve();
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", keep);
  else keep();
});

const touch = (channel, element, action) => {
  const ids = (touched[channel] ||= new Map());
  if (!element) {
    ids.title ||= action === "title";
    return;
  }
  if (/^(replace|remove|before|after)$/.test(action)) element = element.parentNode;
  const id = element.closest?.("[id]")?.id || "";
  ids.set(id, ids.get(id) || action === "value");
};

export const apply = (channel, patches, quiet) => {
  for (const [action, target, content, options = {}] of patches) {
    const detail = { channel, action, target, content, options };
    const all = options.select ? [...document.querySelectorAll(target)] : [target ? byId(target.slice(1)) : null];
    for (const element of all) {
      if (target && !element) {
        if (quiet) continue;
        fire("missing", detail);
        if (!warned[target]) console.warn("afterload: the page has no " + target);
        warned[target] = 1;
        continue;
      }
      if (!fire("before-patch", detail, element || document)) continue;
      try {
        touch(channel, element, action);
        actions[action](element, content, options);
        fire("patch", detail, element?.isConnected ? element : document);
      } catch (error) {
        console.error("afterload:", action, target, error);
        fire("error", { ...detail, error });
      }
    }
  }
};

const bring = (page, id, value) => {
  let want = id ? page.getElementById(id) : page.body;
  let live = id ? byId(id) : document.body;
  // what is gone comes back with what it was in
  while (want && !live) {
    want = want.parentNode.closest?.("[id]") || page.body;
    live = want.id ? byId(want.id) : document.body;
  }
  if (!want) return;
  if (value) live.value = want.value;
  morph(live, want);
};

// Puts back what the page was served with wherever the channel has touched it.
export const restore = (channel) => {
  const ids = touched[channel];
  if (!ids) return;
  const page = parse(served);
  if (ids.title) document.title = page.title;
  for (const [id, value] of ids) bring(page, id, value);
  delete touched[channel];
};

// An element's own HTML: that of other elements with ids is theirs.
const own = (element) => {
  const copy = element?.cloneNode(true);
  for (const inner of copy?.querySelectorAll("[id]") || []) inner.replaceChildren();
  return copy?.outerHTML;
};

// Brings the page to its present HTML: wherever the server's changed, or a patch has touched it. Returns the new
// position, or nothing where that HTML is no page of ours.
export const swap = (html) => {
  const page = parse(html);
  const old = parse(served);
  const position = page.querySelector("script[data-position]");
  if (!position) return;
  const ids = new Map(Object.values(touched).flatMap((map) => [...map]));
  for (const element of page.querySelectorAll("[id]"))
    if (own(element) !== own(old.getElementById(element.id)) && !ids.has(element.id))
      ids.set(element.id);
  document.title = page.title;
  for (const [id, value] of ids) bring(parse(html), id, value);
  served = html;
  touched = {};
  return position.dataset.position;
};
