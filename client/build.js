// Builds the ES modules to one classic script, and fails when it is larger than it may be. esbuild joins them, terser
// makes them small.
import { build } from "esbuild";
import { writeFileSync } from "node:fs";
import { brotliCompressSync, constants } from "node:zlib";
import { minify } from "terser";

// name of entry and script -> bytes of brotli that it may have, see docs/client.md
const LIMITS = { main: ["afterload", 4100], document: ["document", 2750] };
const here = (path) => new URL(path, import.meta.url).pathname;

for (const [entry, [name, limit]] of Object.entries(LIMITS)) {
  const { outputFiles } = await build({
    entryPoints: [here(`src/${entry}.js`)],
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
  if (/<(!--|\/?script)/i.test(script)) throw Error(`${name}.js could not stand in a page`);
  writeFileSync(here(`../src/afterload/static/${name}.js`), script);

  const size = brotliCompressSync(script, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }).length;
  console.log(`${name}.js: ${size} bytes brotli, of ${limit}`);
  if (size > limit) process.exitCode = 1;
}
