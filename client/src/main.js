import { actions } from "./actions.js";
import { control, start } from "./stream.js";

// A second script element on one page would apply everything twice.
if (!window.afterload?.actions) {
  window.afterload = Object.assign(control, { actions });
  start(document.currentScript?.dataset.position);
}
