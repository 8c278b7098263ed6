import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

const DAY = 86_400_000;
const storage = {};
const later = { by: 0 };
const today = Date.now;
Date.now = () => today() + later.by;

let protocol;
performance.getEntriesByType = () => [{ nextHopProtocol: protocol }];
Object.defineProperty(globalThis, "localStorage", { value: storage, configurable: true });

// A page has its own memory of the module, so each import under another name is another page.
let pages = 0;
const page = () => import(`../src/order.js?${pages++}`);

beforeEach(() => {
  for (const key of Object.keys(storage)) delete storage[key];
  later.by = 0;
  protocol = "h2";
  Object.defineProperty(globalThis, "localStorage", { value: storage, configurable: true });
});

test("the stream is first where connections are many, the WebSocket where they are few", async () => {
  const { order, scarce } = await page();
  assert.deepEqual([order({}), scarce()], [["stream", "websocket", "poll"], false]);
  protocol = "http/1.1";
  assert.deepEqual([order({}), scarce()], [["websocket", "stream", "poll"], true]);
  performance.getEntriesByType = () => [];
  assert.deepEqual([order({}), scarce()], [["stream", "websocket", "poll"], false]);
  performance.getEntriesByType = () => [{ nextHopProtocol: protocol }];
});

test("what does not work is left out by the next page too, for a day", async () => {
  const { order, remember } = await page();
  remember("stream");
  assert.deepEqual(order({}), ["websocket", "poll"]);
  assert.deepEqual((await page()).order({}), ["websocket", "poll"]);
  later.by = DAY - 1000;
  assert.deepEqual((await page()).order({}), ["websocket", "poll"]);
  later.by = DAY + 1000;
  assert.deepEqual((await page()).order({}), ["stream", "websocket", "poll"]);
});

test("a clock that was wrong is no reason to leave it out for years", async () => {
  const { order, remember } = await page();
  later.by = 1000 * DAY;
  remember("stream");
  later.by = 0;
  assert.deepEqual(order({}), ["stream", "websocket", "poll"]);
});

test("what has worked in a page is tried by it, whatever became of it in another", async () => {
  const { order, remember } = await page();
  remember("stream");
  assert.deepEqual(order({ stream: 1 }), ["stream", "websocket", "poll"]);
});

test("what others have written there is no time", async () => {
  Object.assign(storage, { "afterload.stream": "soon", "afterload.websocket": "", "afterload.poll": "null" });
  assert.deepEqual((await page()).order({}), ["stream", "websocket", "poll"]);
});

for (const [name, broken] of [
  ["forbidden", { get: () => { throw Error("SecurityError"); } }],
  ["switched off", { value: null }],
])
  test(`where storage is ${name} the page itself remembers`, async () => {
    Object.defineProperty(globalThis, "localStorage", { configurable: true, ...broken });
    const { order, remember } = await page();
    remember("websocket");
    assert.deepEqual(order({}), ["stream", "poll"]);
  });

test("a storage that is full is no error", async () => {
  const full = new Proxy({}, { set: () => { throw Error("QuotaExceededError"); } });
  Object.defineProperty(globalThis, "localStorage", { value: full, configurable: true });
  const { order, remember } = await page();
  remember("stream");
  assert.deepEqual(order({}), ["stream", "websocket", "poll"]);
});
