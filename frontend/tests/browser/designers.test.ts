import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Browser, Locator } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { violations } from "./accessibility";
import { Demo, launch } from "./demo";
import { makePhotos, shown, VASE } from "./photographs";
import { PYTHON } from "./serve";

const SIZES = [
  [1440, 900],
  [1024, 768],
  [390, 844],
  [360, 225], // 400 % of 1440 x 900
] as const;

let folder: string;
let browser: Browser;
let demo: Demo;

beforeAll(async () => {
  folder = makePhotos();
  browser = await launch();
  demo = await Demo.open(browser, inject("address"), { permissions: ["clipboard-read", "clipboard-write"] });
  await openPhoto(demo, "second.png");
});

afterAll(async () => {
  await browser.close();
  rmSync(folder, { recursive: true });
});

async function openPhoto(page: Demo, name: string): Promise<void> {
  await page.ready();
  await page.button("Videos").click();
  await page.page.getByLabel("Photographs", { exact: true }).setInputFiles(join(folder, name));
  await shown(page, name);
  await page.click(...VASE);
  await page.said(/Object 1: the mask covers/);
}

const dialog = () => demo.page.getByRole("dialog");

/** Downloads by a button of the open dialog. */
async function download(name: string): Promise<string> {
  const waiting = demo.page.waitForEvent("download");
  await dialog().getByRole("button", { name, exact: true }).click();
  return (await waiting).path();
}

/** The size of an image, the share of its pixels whose alpha is between 0 and 1, and a corner. */
function read(path: string): { size: number[]; soft: number; corner: number[]; names: string[] } {
  const code = `import io, json, sys, zipfile, numpy as np
from PIL import Image
names = zipfile.ZipFile(sys.argv[1]).namelist() if zipfile.is_zipfile(sys.argv[1]) else []
file = io.BytesIO(zipfile.ZipFile(sys.argv[1]).read(names[0])) if names else sys.argv[1]
image = np.asarray(Image.open(file))
alpha = image[..., -1] if image.ndim == 3 else image
soft = float(((alpha > 0) & (alpha < 255)).mean())
corner = image[5, 5].tolist()
print(json.dumps({"size": image.shape[:2], "soft": soft, "corner": corner, "names": names}))`;
  return JSON.parse(execFileSync(PYTHON, ["-c", code, path]).toString()) as ReturnType<typeof read>;
}

// The share of pixels in which the first frames of two videos differ.
const DIFFERENCE = `import av, sys, numpy as np
first = [next(av.open(file).decode(video=0)).to_ndarray(format="gray").astype(int) for file in sys.argv[1:]]
print((np.abs(first[0] - first[1]) > 20).mean())`;

/** The page at all sizes, with a control in view. */
async function look(name: string, control: Locator): Promise<void> {
  for (const [width, height] of SIZES) {
    await demo.page.setViewportSize({ width, height });
    const sheet = demo.button("Effects", true);
    if (await sheet.isVisible()) await sheet.click({ timeout: 1000 }).catch(() => undefined); // a dialog may be open
    await control.scrollIntoViewIfNeeded();
    await demo.shot(`${name} ${width}`);
    const wide = await demo.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(wide, `${name} at ${width}`).toBeLessThanOrEqual(0);
  }
  await demo.page.setViewportSize({ width: 1280, height: 800 });
}

test("cut-outs have soft edges, and end near the object", async () => {
  await demo.button("Download", true).click();
  const hard = read(await download("Cut-outs"));
  expect(hard).toMatchObject({ size: [700, 900], soft: 0 });
  await dialog().getByLabel("Crop cut-outs").check();
  await dialog().getByLabel("Edges").selectOption("Along hair and leaves");
  const matte = read(await download("Cut-outs"));
  expect(matte.size[0]).toBeLessThan(400);
  expect(matte.soft).toBeGreaterThan(0.005);
  await dialog().getByLabel("Edges").selectOption("Feathered");
  const feather = dialog().getByRole("spinbutton", { name: "Feather" });
  await feather.fill("");
  expect(await feather.inputValue()).toBe(""); // while one types
  await demo.page.keyboard.type("12");
  const feathered = read(await download("Cut-outs"));
  expect(feathered.soft).toBeGreaterThan(matte.soft);
  expect(feathered.size[0]).toBeGreaterThan(read(await download("Cut-outs")).size[0]! - 1);
  expect(await violations(demo.page)).toEqual([]);
  await look("photo dialog", dialog().getByLabel("Crop cut-outs"));
  expect(demo.problems).toEqual([]);
});

test("the cut-out is copied", async () => {
  await dialog().getByRole("button", { name: "Copy cut-out" }).click();
  await dialog().getByText("The cut-out is in the clipboard.").first().waitFor();
  const copied = await demo.page.evaluate(async () => {
    const [item] = await navigator.clipboard.read();
    const image = await createImageBitmap(await item!.getType("image/png"));
    return [image.height, image.width];
  });
  expect(copied).toEqual(read(await download("Cut-outs")).size);
  await demo.page.keyboard.press("Escape");
});

test("where browsers forbid it, the button says so", async () => {
  const script = "Object.defineProperty(window, 'isSecureContext', { value: false });";
  const other = await Demo.open(browser, inject("address"), {}, script);
  await openPhoto(other, "old.bmp");
  await other.button("Download", true).click();
  const button = other.button("Copy cut-out");
  expect(await button.isDisabled()).toBe(true);
  await other.page.getByText("Browsers copy images on HTTPS and localhost only.").waitFor();
  expect(other.problems).toEqual([]);
  await other.close();
});

test("any colour and an image are behind the objects, in files and after a reload", async () => {
  await demo.button("Show effects").click();
  await demo.effect("Objects", "Original");
  await demo.effect("Background", "Erase");
  await demo.button("Download", true).click();
  const feathered = read(await download("Image")).soft; // since the first test
  expect(feathered).toBeGreaterThan(0.005);
  await dialog().getByLabel("Edges").selectOption("Along hair and leaves");
  const matte = read(await download("Image"));
  expect(matte.soft).toBeGreaterThan(0.002);
  expect(matte.soft).not.toBeCloseTo(feathered, 4);
  await dialog().getByLabel("Crop cut-outs").uncheck();
  expect(matte.soft).toBeCloseTo(read(await download("Cut-outs")).soft, 3);
  await demo.page.keyboard.press("Escape");
  await demo.effect("Background", "Colour");
  await demo.page.getByLabel("Colour", { exact: true }).fill("#123456");
  await demo.settled();
  await look("colour", demo.page.getByLabel("Colour", { exact: true }));
  await demo.button("Download", true).click();
  expect(read(await download("Image")).corner.slice(0, 3)).toEqual([0x12, 0x34, 0x56]);
  await demo.page.keyboard.press("Escape");

  await demo.effect("Background", "Image");
  await demo.page.getByLabel("Background image").setInputFiles(join(folder, "first.jpg"));
  await demo.button("Another image").waitFor();
  const preview = demo.button("Image effect").locator("canvas");
  const corner = () =>
    preview.evaluate((canvas: HTMLCanvasElement) => [...canvas.getContext("2d")!.getImageData(1, 1, 1, 1).data]);
  await expect.poll(corner).not.toEqual([0x9a, 0xa4, 0xb2, 255]);
  expect(await violations(demo.page)).toEqual([]);
  await look("image", demo.button("Another image"));
  const expected = read(join(folder, "first.jpg")).corner;
  const check = async () => {
    await demo.button("Download", true).click();
    const { corner } = read(await download("Image"));
    corner.slice(0, 3).forEach((value, part) => expect(Math.abs(value - expected[part]!)).toBeLessThan(12));
    await demo.page.keyboard.press("Escape");
  };
  await check();
  await demo.saved();
  await demo.page.reload();
  await shown(demo, "second.png");
  await check();
  expect(demo.problems).toEqual([]);
});

test("a file that is no image is refused", async () => {
  await demo.button("Show effects").click();
  await demo.page.getByLabel("Background image").setInputFiles(join(folder, "broken.jpg"));
  await demo.page.getByText("This browser cannot read the image").waitFor();
});

test("a video's objects each have a folder of mattes, with soft edges", async () => {
  await demo.button("Videos").click();
  await demo.page.getByLabel("Video file").setInputFiles(join(inject("data"), "short.mp4"));
  await demo.page.locator(".clip-name", { hasText: "short.mp4" }).waitFor();
  await demo.ready();
  await demo.click(...VASE);
  await demo.said(/Object 1: the mask covers/);
  await demo.button("Download", true).click();
  await dialog().getByLabel("Edges").selectOption("Feathered");
  const { names, soft } = read(await download("Object mattes"));
  expect(names[0]).toBe("01_Object 1/00000.png");
  expect(soft).toBeGreaterThan(0.005);
  expect(await violations(demo.page)).toEqual([]);
  await look("video dialog", dialog().getByLabel("Edges"));
  await demo.page.keyboard.press("Escape");
  await demo.effect("Objects", "Original");
  await demo.effect("Background", "Erase");
  const files: string[] = [];
  for (const edges of ["Hard", "Along hair and leaves"]) {
    await demo.button("Download", true).click();
    await dialog().getByLabel("Edges").selectOption(edges);
    files.push(await download("Video"));
    await demo.page.keyboard.press("Escape");
  }
  const share = Number(execFileSync(PYTHON, ["-c", DIFFERENCE, ...files]).toString());
  expect(share).toBeGreaterThan(0.001);
  expect(share).toBeLessThan(0.1);
  expect(demo.problems).toEqual([]);
});
