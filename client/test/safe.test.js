import assert from "node:assert/strict";
import { test } from "node:test";
import { badAttribute, badUrl } from "../src/safe.js";

const good = [
  "", "/", "/a?b=c:d", "a/b", "./a:b", "?a:b", "#a:b", "//example.com/", "http://example.com/", "HTTPS://example.com/",
  " https://example.com/", "1a:b", "é:b", "a b", "/javascript:x",
];
const bad = [
  "javascript:alert(1)", "JavaScript:alert(1)", " javascript:x", "\tjavascript:x", "java\nscript:x", "java\r\n\tscript:x",
  "\x01javascript:x", "data:text/html,x", "vbscript:x", "mailto:a@example.com", "file:///etc/passwd", "blob:x", "httpsx:y",
  "a:b", "view-source:x", "x+y-z.1:",
];

for (const url of good) test(`${JSON.stringify(url)} is let through`, () => assert.equal(badUrl(url), false));
for (const url of bad) test(`${JSON.stringify(url)} is refused`, () => assert.equal(badUrl(url), true));

test("attributes that would run script are refused, whatever their value", () => {
  for (const name of ["onclick", "ONCLICK", "onanything", "on", "srcdoc", "SrcDoc"]) assert.ok(badAttribute(name, ""), name);
});

test("attributes that hold a URL are refused with a bad one", () => {
  for (const name of [
    "href", "src", "action", "formaction", "poster", "data", "cite", "background", "ping", "manifest", "xlink:href",
    "srcset", "imagesrcset", "to", "from", "by", "values", "HREF",
  ]) {
    assert.ok(badAttribute(name, "javascript:x"), name);
    assert.ok(!badAttribute(name, "/fine"), name);
  }
});

test("lists of URLs are looked through", () => {
  assert.ok(badAttribute("srcset", "a.png 1x, javascript:x 2x"));
  assert.ok(badAttribute("ping", "/a javascript:x"));
  assert.ok(badAttribute("values", "/a;javascript:x"));
  assert.ok(!badAttribute("srcset", "a.png 1x, https://example.com/b.png 2x"));
  assert.ok(!badAttribute("href", "/search?q=a b:c"));
});

test("other attributes take anything", () => {
  for (const name of ["title", "data-on", "class", "data-src", "value", "aria-label", "resource", "datax", "tooltip"])
    assert.ok(!badAttribute(name, "javascript:x"), name);
});
