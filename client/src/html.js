// Text to nodes, never by eval or a script.

const policy = window.trustedTypes?.createPolicy("afterload", { createHTML: (html) => html }) || {
  createHTML: (html) => html,
};

// Scripts in a template are marked as run already, also when its content is moved into the page.
export const fragment = (html) => {
  const template = document.createElement("template");
  template.innerHTML = policy.createHTML(html);
  return template.content;
};

export const parse = (html) => new DOMParser().parseFromString(policy.createHTML(html), "text/html");
