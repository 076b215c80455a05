// Checks that the generated types and the bundle in ../server/static belong to the sources.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const COMMITTED = join(ROOT, "../server/static");

function files(folder) {
  const names = readdirSync(folder, { recursive: true }).map(String);
  return names.filter((name) => statSync(join(folder, name)).isFile()).sort();
}

const run = (...words) => execFileSync(process.execPath, words, { cwd: ROOT, stdio: "inherit" });
run("scripts/codegen.mjs", "--check");

const built = mkdtempSync(join(tmpdir(), "sam2fast-bundle-"));
try {
  run("node_modules/vite/bin/vite.js", "build", "--outDir", built, "--emptyOutDir", "--logLevel", "warn");
  const names = new Set([...files(built), ...files(COMMITTED)]);
  const different = [...names].filter((name) => {
    const [ours, theirs] = [built, COMMITTED].map((folder) => {
      try {
        return readFileSync(join(folder, name));
      } catch {
        return null;
      }
    });
    return !ours || !theirs || !ours.equals(theirs);
  });
  if (different.length > 0) {
    console.error(`${relative(process.cwd(), COMMITTED)} does not belong to the sources: run \`npm run build\``);
    for (const name of different) console.error(`  ${name}`);
    process.exitCode = 1;
  }
} finally {
  rmSync(built, { recursive: true, force: true });
}
