import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { TestProject } from "vitest/node";
import { PYTHON, serve } from "./serve";

declare module "vitest" {
  export interface ProvidedContext {
    address: string;
    data: string;
  }
}

/** Starts one server for all test files, with a gallery of two short clips. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const data = join(mkdtempSync(join(tmpdir(), "sam2fast-web-")), "data");
  execFileSync(PYTHON, [resolve(import.meta.dirname, "make_clips.py"), data], { stdio: "inherit" });
  const server = await serve(data, "--port", "0");
  project.provide("address", server.address);
  project.provide("data", data);
  return async () => {
    await server.stop();
    rmSync(resolve(data, ".."), { recursive: true, force: true });
  };
}
