// A Vite plugin: collects the licences of the packages whose code is in the bundle into licences.txt.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Plugin } from "vite";

export function licences(): Plugin {
  return {
    name: "licences",
    generateBundle(_options, bundle) {
      const folders = new Map<string, string>();
      for (const chunk of Object.values(bundle)) {
        for (const id of chunk.type === "chunk" ? chunk.moduleIds : []) {
          const folder = packageFolder(id.replace(/^\0/, "").split("?")[0]!);
          if (folder) folders.set(describe(folder), folder);
        }
      }
      const parts = [...folders.keys()].sort().map((name) => `${name}\n\n${licenceText(folders.get(name)!)}`);
      const head =
        "The bundle of this page holds code of the packages below, each under its own licence. Their sources are the npm\n" +
        "packages of these names and versions.\n";
      this.emitFile({
        type: "asset",
        fileName: "licences.txt",
        source: [head, ...parts].join(`\n${"=".repeat(80)}\n\n`),
      });
    },
  };
}

/** The nearest folder with a package.json that has a version, for files under node_modules; null for our own. */
function packageFolder(file: string): string | null {
  if (!file.includes("node_modules")) return null;
  for (let folder = dirname(file); folder.includes("node_modules"); folder = dirname(folder)) {
    const manifest = join(folder, "package.json");
    if (existsSync(manifest) && readManifest(manifest).version) return folder;
  }
  throw new Error(`no package.json above ${file}`);
}

function describe(folder: string): string {
  const { name, version, license } = readManifest(join(folder, "package.json"));
  return `${name} ${version}, ${license}`;
}

function licenceText(folder: string): string {
  const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
  if (!file) throw new Error(`${folder} has no licence file`);
  return readFileSync(join(folder, file), "utf8").replace(/\r\n/g, "\n").trim() + "\n";
}

function readManifest(file: string): { name?: string; version?: string; license?: string } {
  return JSON.parse(readFileSync(file, "utf8")) as { name?: string; version?: string; license?: string };
}
