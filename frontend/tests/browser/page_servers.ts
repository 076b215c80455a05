import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inject } from "vitest";
import { PYTHON, sam2fast } from "./serve";

/** The page without a server, as any file server sends it, and as `sam2fast serve --in-browser` does. */
export class PageServers {
  private constructor(
    /** Holds `page` and the command's `data`. */
    readonly folder: string,
    /** Address of the folder. */
    readonly site: string,
    /** Address of the page with the headers of the command. */
    readonly served: string,
    private readonly servers: readonly ChildProcess[],
  ) {}

  /**
   * The first of the test files exports the page, with a model of half nano's size, for the GPU in software; the gallery
   * of the command is one clip.
   */
  static async start(): Promise<PageServers> {
    const folder = mkdtempSync(join(tmpdir(), "sam2fast-page-"));
    const [exported, page] = [join(inject("data"), "..", "page"), join(folder, "page")];
    if (!existsSync(exported))
      execFileSync(PYTHON, sam2fast("export", "--format", "web", "--image-size", "128", "--out", exported, "--quiet"));
    cpSync(exported, page, { recursive: true });
    const files = spawn(PYTHON, ["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder]);
    const port = await match(files, / port (\d+)/);
    cpSync(join(inject("data"), "short.mp4"), join(folder, "data", "gallery", "clip.mp4"));
    const command = spawn(PYTHON, [join(import.meta.dirname, "serve_page.py"), page, join(folder, "data")]);
    const served = await match(command, /(http:\S+)/);
    return new PageServers(folder, `http://127.0.0.1:${port}/`, served, [files, command]);
  }

  stop(): void {
    for (const server of this.servers) server.kill();
    rmSync(this.folder, { recursive: true });
  }
}

/** What a process prints first that matches. */
function match(child: ChildProcess, pattern: RegExp): Promise<string> {
  return new Promise((resolve) => {
    child.stdout!.on("data", (line: Buffer) => {
      const found = pattern.exec(line.toString())?.[1];
      if (found) resolve(found);
    });
  });
}
