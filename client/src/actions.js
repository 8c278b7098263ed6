// The actions: name -> (element, content, options). An application may add its own to `afterload.actions`.
import { fire } from "./events.js";
import { fragment } from "./html.js";
import { alike, byId, isElement, morph, morphChildren, setAttribute } from "./morph.js";
import { badAttribute, badUrl } from "./safe.js";

const counted = (node) => isElement(node) || (node.nodeType === 3 && /\S/.test(node.data));

const add = (method, end) => (element, content, { keep }) => {
  const nodes = fragment(content);
  const ids = byId(nodes);
  // a list may have thousands of rows, and most that are added have no id
  if (ids.size) for (const [id, child] of byId(element)) if (ids.has(id)) child.remove();
  element[method](nodes);
  if (!keep) return;
  let count = [...element.childNodes].filter(counted).length;
  for (let node; (node = element[end]) && (count > keep || !counted(node)); node.remove()) count -= counted(node);
};

const refuse = (what) => {
  throw Error("refused: " + what);
};

export const actions = {
  __proto__: null,
  text(element, content) {
    if (element.firstElementChild || element.textContent !== content) element.textContent = content;
  },
  html: (element, content) => morphChildren(element, fragment(content)),
  append: add("append", "firstChild"),
  prepend: add("prepend", "lastChild"),
  append_text(element, content) {
    const last = element.lastChild;
    if (last?.nodeType === 3) last.appendData(content);
    else if (content) element.append(content);
  },
  value(element, content) {
    if (element.value !== content) element.value = content;
  },
  attr: (element, content, { name }) =>
    content !== null && badAttribute(name, content) ? refuse(name) : setAttribute(element, name, content),
  class: (element, content, { name }) => element.classList.toggle(name, content),
  title(_, content) {
    document.title = content;
  },
  replace(element, content) {
    const nodes = [...fragment(content).childNodes];
    const same = nodes.findIndex((node) => alike(element, node));
    if (same < 0) element.replaceWith(...nodes);
    else {
      element.before(...nodes.splice(0, same));
      morph(element, nodes.shift());
      element.after(...nodes);
    }
  },
  remove: (element) => element.remove(),
  before: (element, content) => element.before(fragment(content)),
  after: (element, content) => element.after(fragment(content)),
  navigate: (_, url) => (badUrl(url) ? refuse(url) : location.assign(url)),
  reload: () => location.reload(),
  dispatch: (element, detail, { name }) => fire(name, detail, element),
};
