// The actions: name -> (element, content, options). An application may add its own to `afterload.actions`.
import { fragment } from "./html.js";
import { alike, idOf, morph, morphChildren, setAttribute } from "./morph.js";
import { badAttribute, badUrl } from "./safe.js";

const counted = (node) => node.nodeType === 1 || !!(node.nodeType === 3 && node.data.trim());

const add = (method, end) => (element, content, { keep }) => {
  const nodes = fragment(content);
  const ids = new Set([...nodes.children].map(idOf));
  for (const child of [...element.children]) if (idOf(child) && ids.has(idOf(child))) child.remove();
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
      element.before(...nodes.slice(0, same));
      element.after(...nodes.slice(same + 1));
      morph(element, nodes[same]);
    }
  },
  remove: (element) => element.remove(),
  before: (element, content) => element.before(fragment(content)),
  after: (element, content) => element.after(fragment(content)),
  navigate: (_, url) => (badUrl(url) ? refuse(url) : location.assign(url)),
  reload: () => location.reload(),
  dispatch: (element, detail, { name }) =>
    (element || document).dispatchEvent(new CustomEvent(name, { bubbles: true, detail })),
};
