// A Vite plugin: writes into runtime.json which package runs models in pages without a server; it is not in the bundle.
import { readFileSync } from "node:fs";
import type { Plugin } from "vite";

const NAME = "onnxruntime-web";

export function runtime(): Plugin {
  return {
    name: "runtime",
    generateBundle() {
      const lock = JSON.parse(readFileSync(new URL("../package-lock.json", import.meta.url), "utf8")) as {
        packages: Record<string, { version: string; integrity: string }>;
      };
      const { version, integrity } = lock.packages[`node_modules/${NAME}`]!;
      const source = JSON.stringify({ name: NAME, version, integrity }, null, 1) + "\n";
      this.emitFile({ type: "asset", fileName: "runtime.json", source });
    },
  };
}
