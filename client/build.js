// Builds the ES modules to one classic script, and fails when it is larger than it may be.
import { build } from "esbuild";
import { readFileSync } from "node:fs";
import { brotliCompressSync, constants } from "node:zlib";

const LIMIT = 3750; // bytes of brotli, see docs/client.md
const outfile = new URL("../src/afterload/static/afterload.js", import.meta.url).pathname;

await build({
  entryPoints: [new URL("src/main.js", import.meta.url).pathname],
  outfile,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["es2021"],
  charset: "utf8",
  legalComments: "none",
  banner: { js: "/* afterload, MIT */" },
});

const size = brotliCompressSync(readFileSync(outfile), {
  params: { [constants.BROTLI_PARAM_QUALITY]: 11 },
}).length;
console.log(`afterload.js: ${size} bytes brotli, of ${LIMIT}`);
if (size > LIMIT) process.exit(1);
