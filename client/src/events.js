// What the page's own scripts are told.
export const fire = (name, detail, target) =>
  (target || document).dispatchEvent(new CustomEvent(name, { bubbles: true, cancelable: true, detail }));

// Everything that a listener may undo is done before it is told.
export const show = (client, status, detail) => {
  if (status === client.status) return;
  client.status = document.documentElement.dataset.live = status;
  return fire("live:status", { ...detail, status });
};
