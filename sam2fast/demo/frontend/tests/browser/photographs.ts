import { execFileSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Demo } from "./demo";
import { PYTHON } from "./serve";

export const VASE = [0.26, 0.62] as const;
export const APPLE = [0.43, 0.86] as const;

/** A folder of photographs of the same still life; see make_photos.py. */
export function makePhotos(): string {
  const folder = mkdtempSync(join(tmpdir(), "sam2fast-photos-"));
  execFileSync(PYTHON, [join(import.meta.dirname, "make_photos.py"), folder], { stdio: "inherit" });
  return folder;
}

/** Waits until a photograph is shown. */
export async function shown(demo: Demo, name: string): Promise<void> {
  await demo.page.locator(".clip-name", { hasText: name }).waitFor();
  await demo.ready();
}

/** What `read_photos.py` says about a photograph. */
export interface PhotoFacts extends Record<"share" | "yolo" | "cutout", number> {
  readonly name: string;
  readonly size: readonly number[];
  readonly image: readonly number[];
  readonly classes: readonly string[];
}

/** The exports of the dialog that is open, read by pycocotools and Pillow. */
export async function readExports(demo: Demo): Promise<PhotoFacts[]> {
  const paths: string[] = [];
  for (const format of ["COCO", "YOLO", "Cut-outs"]) {
    const waiting = demo.page.waitForEvent("download", { timeout: 60_000 });
    await demo.page.getByRole("dialog").getByRole("button", { name: format, exact: true }).click();
    paths.push(await (await waiting).path());
  }
  const read = execFileSync(PYTHON, [join(import.meta.dirname, "read_photos.py"), ...paths]);
  return JSON.parse(read.toString()) as PhotoFacts[];
}
