import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { decoder } from "../src/decoder.js";

const vectors = JSON.parse(readFileSync(new URL("../../tests/vectors/sse.json", import.meta.url)));

// As the connection does: what is half a character waits for its other half.
const bytesTo = (feed) => {
  const utf8 = new TextDecoder();
  return (piece) => feed(utf8.decode(piece, { stream: true }));
};

const decode = (...pieces) => {
  const events = [];
  const feed = bytesTo(decoder((event, data, id, retry) => events.push([event, data, id, retry ?? null])));
  for (const piece of pieces) feed(piece);
  return events;
};

test("there are vectors", () => assert.ok(vectors.length > 50));

for (const { name, stream, events } of vectors)
  test(name, () => {
    const bytes = Uint8Array.from(Buffer.from(stream, "latin1"));
    assert.deepEqual(decode(bytes), events, "whole");
    assert.deepEqual(decode(...[...bytes].map((byte) => Uint8Array.of(byte))), events, "byte by byte");
    for (let i = 0; i <= bytes.length; i++) {
      const [one, two] = [bytes.subarray(0, i), bytes.subarray(i)];
      assert.deepEqual(decode(one, two), events, `split at ${i}`);
      assert.deepEqual(decode(one, new Uint8Array(), two), events, `split at ${i}, nothing between`);
    }
  });

test("any mixture of what matters is the same however it is split", () => {
  const parts = ["data", "id", "event", "retry", ":", ": ", "\n", "\r", "\r\n", "\n\n", "1", "é", "\ufeff", "\0", "🙂"];
  let seed = 1;
  const random = (n) => (seed = (seed * 48271) % 2147483647) % n;
  for (let round = 0; round < 500; round++) {
    const text = Array.from({ length: random(30) }, () => parts[random(parts.length)]).join("");
    const bytes = new TextEncoder().encode("data:" + text + "\n\n");
    const whole = decode(bytes);
    const cuts = Array.from({ length: 4 }, () => random(bytes.length + 1)).sort((a, b) => a - b);
    const pieces = [0, ...cuts].map((cut, i) => bytes.subarray(cut, cuts[i]));
    assert.deepEqual(decode(...pieces), whole, JSON.stringify(text));
    assert.deepEqual(decode(...[...bytes].map((byte) => Uint8Array.of(byte))), whole, JSON.stringify(text));
  }
});

test("a block is given out with the byte that ends it", () => {
  let events = 0;
  const feed = decoder(() => events++);
  feed("data: a\r\n\r");
  assert.equal(events, 1);
  feed("\n");
  assert.equal(events, 1);
});

test("a line as long as it likes costs as much as it is long", { timeout: 20_000 }, async () => {
  const piece = "x".repeat(1000);
  let length;
  const feed = decoder((_, data) => (length = data.length));
  feed("data:");
  for (let i = 0; i < 16_000; i++) {
    feed(piece);
    if (i % 100 === 0) await setImmediate(); // or the timeout could not end it
  }
  feed("\n\n");
  assert.equal(length, 16_000_000);
});
