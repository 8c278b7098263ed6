// Text to nodes, never by eval or a script.

const rules = { createHTML: (html) => html };
const policy = window.trustedTypes?.createPolicy("afterload", rules) || rules;

// Scripts in a template are marked as run already, also when its content is moved into the page.
export const fragment = (html) => {
  const template = document.createElement("template");
  template.innerHTML = policy.createHTML(html);
  return template.content;
};

export const parse = (html) => new DOMParser().parseFromString(policy.createHTML(html), "text/html");
