// Patches to the page: finds their targets, tells the page of them, and lets none of them stop the rest.
import { actions } from "./actions.js";
import { touch } from "./served.js";

export const fire = (name, detail, target = document) =>
  target.dispatchEvent(new CustomEvent("live:" + name, { bubbles: true, cancelable: true, detail }));

const warned = new Set();

export const apply = (channel, patches, quiet) => {
  for (const [action, target, content, options = {}] of patches) {
    const detail = { channel, action, target, content, options };
    try {
      for (const element of options.select ? document.querySelectorAll(target) : [target ? document.getElementById(target.slice(1)) : null]) {
        if (target && !element) {
          if (quiet) continue;
          fire("missing", detail);
          if (!warned.has(target)) console.warn("afterload: the page has no " + target);
          warned.add(target);
        } else if (fire("before-patch", detail, element || document)) {
          touch(channel, element, action, options.name);
          actions[action](element, content, options);
          fire("patch", detail, element?.isConnected ? element : document);
        }
      }
    } catch (error) {
      console.error("afterload:", action, target, error);
      fire("error", { ...detail, error });
    }
  }
};

// Containers that show their end go on showing it, unless the reader has scrolled up.
const followers = () => [...document.querySelectorAll("[data-live-follow]")];
export const scrolledUp = () => followers().filter((e) => e.scrollHeight - e.scrollTop - e.clientHeight > 9);
export const follow = (except) => {
  // whatever the style sheet says: a smooth scroll under way looks like a reader's
  for (const e of followers()) if (!except.includes(e)) e.scrollTo({ top: e.scrollHeight, behavior: "instant" });
};
