import assert from "node:assert/strict";
import { test } from "node:test";
import { backoff } from "../src/backoff.js";

test("the longest wait doubles with each failure, up to 30 s", () => {
  const longest = [0, 1, 2, 3, 6, 7, 50, 5000].map((failures) => backoff(500, failures, 1));
  assert.deepEqual(longest, [500, 1000, 2000, 4000, 30000, 30000, 30000, 30000]);
});

test("the server's base counts", () => assert.equal(backoff(4000, 1, 1), 8000));

test("the jitter is full: anything from nothing to the longest", () => {
  assert.equal(backoff(500, 3, 0), 0);
  assert.equal(backoff(500, 3, 0.25), 1000);
  const waits = Array.from({ length: 2000 }, () => backoff(1000, 2));
  assert.ok(Math.min(...waits) < 400 && Math.max(...waits) > 3600 && Math.max(...waits) < 4000);
});
