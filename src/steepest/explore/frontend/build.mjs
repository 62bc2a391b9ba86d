// Bundles the two entry points and the style sheet into the folder given as argument.
import { build } from "esbuild";
import { join } from "node:path";

const out = process.argv[2];
const common = { bundle: true, minify: true, legalComments: "none", target: "es2022", logLevel: "warning" };

await build({ ...common, entryPoints: ["src/element.js"], format: "iife", outfile: join(out, "explore.js") });
await build({ ...common, entryPoints: ["src/live.js"], format: "esm", outfile: join(out, "explore_live.js") });
await build({ ...common, entryPoints: ["src/explore.css"], outfile: join(out, "explore.css") });
