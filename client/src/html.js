// Text to nodes, never by eval or a script.

const policy = window.trustedTypes?.createPolicy("afterload", { createHTML: (html) => html });
const trusted = (html) => (policy ? policy.createHTML(html) : html);

// Scripts in a template are marked as run already, also when its content is moved into the page.
export const fragment = (html) => {
  const template = document.createElement("template");
  template.innerHTML = trusted(html);
  return template.content;
};

export const parse = (html) => new DOMParser().parseFromString(trusted(html), "text/html");
