// Builds the ES modules to one classic script, and fails when it is larger than it may be. esbuild joins them, terser
// makes them small.
import { build } from "esbuild";
import { writeFileSync } from "node:fs";
import { brotliCompressSync, constants } from "node:zlib";
import { minify } from "terser";

const LIMIT = 3450; // bytes of brotli, see docs/client.md
const here = (path) => new URL(path, import.meta.url).pathname;

const { outputFiles } = await build({
  entryPoints: [here("src/main.js")],
  bundle: true,
  write: false,
  format: "esm",
  target: ["es2021"],
  charset: "utf8",
  legalComments: "none",
});
const { code } = await minify(outputFiles[0].text, {
  module: true,
  ecma: 2020,
  compress: { passes: 5, inline: 1, pure_getters: true },
});

// A second script element on one page would apply everything twice. (An element may have that id, and that name.)
const script = `/* afterload, MIT */\nwindow.afterload?.actions||(()=>{${code}})();\n`;
writeFileSync(here("../src/afterload/static/afterload.js"), script);

const size = brotliCompressSync(script, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }).length;
console.log(`afterload.js: ${size} bytes brotli, of ${LIMIT}`);
if (size > LIMIT) process.exit(1);
