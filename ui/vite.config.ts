import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

/** Writes `x.gz` beside every `x`: the server embeds these and compresses nothing itself. */
function compressed(): Plugin {
  let folder = "";
  return {
    name: "compressed",
    apply: "build",
    configResolved(config) {
      folder = join(config.root, config.build.outDir);
    },
    async closeBundle() {
      for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
        if (!entry.isFile() || entry.name.endsWith(".gz")) continue;
        const path = join(entry.parentPath, entry.name);
        await writeFile(`${path}.gz`, gzipSync(await readFile(path), { level: 9 }));
      }
    },
  };
}

const server = process.env["KILTER_URL"] ?? "http://127.0.0.1:8080";
const proxy = Object.fromEntries(["/v1", "/api", "/docs", "/openapi.json", "/metrics"].map((path) => [path, { target: server }]));

export default defineConfig({
  // All of the dashboard lies below one path, so that it shadows no route of an API.
  base: "/ui/",
  plugins: [svelte(), compressed()],
  build: {
    target: "es2022",
    // The Content-Security-Policy knows no data: URLs.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
  },
  server: { proxy },
  // What was built, in front of any server: `npx vite preview`.
  preview: { proxy },
});
