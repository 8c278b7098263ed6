// What the page's own scripts are told.
export const fire = (name, detail, target) =>
  (target || document).dispatchEvent(new CustomEvent(name, { bubbles: true, cancelable: true, detail }));
