import { actions } from "./page.js";
import { control, start } from "./stream.js";

window.afterload = control;
control.actions = actions;
start(document.currentScript?.dataset.position);
