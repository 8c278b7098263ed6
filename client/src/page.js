// Patches to the page: finds their targets, tells the page of them, and lets none of them stop the rest.
import { actions } from "./actions.js";
import { fire } from "./events.js";
import { touch } from "./served.js";

const warned = new Set();

export const apply = (channel, patches, quiet) => {
  for (const [action, target, content, options = {}] of patches) {
    const detail = { channel, action, target, content, options };
    try {
      for (const element of options.select
        ? document.querySelectorAll(target)
        : [document.getElementById(target.slice(1))]) {
        if (target && !element) {
          if (quiet) continue;
          fire("live:missing", detail);
          if (!warned.has(target)) console.warn("afterload: the page has no " + target);
          warned.add(target);
        } else if (fire("live:before-patch", detail, element)) {
          touch(channel, element, action, options.name);
          actions[action](element, content, options);
          fire("live:patch", detail, element?.isConnected && element);
        }
      }
    } catch (error) {
      console.error("afterload:", action, target, error);
      fire("live:error", { ...detail, error });
    }
  }
};

// Containers that show their end go on showing it, unless the reader has scrolled up: then one is not where it was left.
let up = [];
const left = new WeakMap();
const followers = () => [...document.querySelectorAll("[data-live-follow]")];
export const beforehand = () => {
  up = followers().filter(
    (e) => e.scrollHeight - e.scrollTop - e.clientHeight > 9 && e.scrollTop !== left.get(e),
  );
};
export const follow = () => {
  for (const e of followers())
    if (!up.includes(e)) {
      // whatever the style sheet says: a smooth scroll under way looks like a reader's
      e.scrollTo({ top: e.scrollHeight, behavior: "instant" });
      left.set(e, e.scrollTop);
    }
};
