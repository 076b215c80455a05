import { execFileSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
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

/** Opens a photograph whose left half is transparent, and checks that it is grey, and transparent in its cut-out. */
export async function checkTransparent(demo: Demo, file: string): Promise<void> {
  await demo.button("Videos").click();
  await demo.page.getByLabel("Photographs", { exact: true }).setInputFiles(file);
  await shown(demo, "sticker.png");
  const seen = await demo.page.evaluate(() => {
    const canvas = document.querySelector<HTMLCanvasElement>(".frame canvas[data-frame]")!;
    return [...canvas.getContext("2d")!.getImageData(100, 150, 1, 1).data];
  });
  expect(seen).toEqual([128, 128, 128, 255]);
  await demo.click(0.2, 0.5); // on the transparent half
  await demo.said(/Object 1: the mask covers/);
  await demo.button("Download", true).click();
  const dialog = demo.page.getByRole("dialog");
  const waiting = demo.page.waitForEvent("download");
  await dialog.getByRole("button", { name: "Cut-outs", exact: true }).click();
  const code = `import io, sys, zipfile, numpy as np
from PIL import Image
archive = zipfile.ZipFile(sys.argv[1])
(name,) = [name for name in archive.namelist() if "sticker" in name]
print(np.asarray(Image.open(io.BytesIO(archive.read(name))))[:, :200].any())`;
  expect(
    execFileSync(PYTHON, ["-c", code, await (await waiting).path()])
      .toString()
      .trim(),
  ).toBe("False");
  await demo.page.keyboard.press("Escape");
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
