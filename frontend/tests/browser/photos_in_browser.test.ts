import { execFileSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { unzipSync } from "fflate";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Demo, launch } from "./demo";
import { PageServers } from "./page_servers";
import { APPLE, checkTransparent, makePhotos, readExports, shown, VASE } from "./photographs";
import { PYTHON } from "./serve";

let photos: string;
let pages: PageServers;
let browser: Browser;
let demo: Demo;

beforeAll(async () => {
  photos = makePhotos();
  pages = await PageServers.start();
  browser = await launch();
  demo = await Demo.open(browser, `${pages.site}page/`);
  await demo.ready();
});

afterAll(async () => {
  await browser.close();
  pages.stop();
  rmSync(photos, { recursive: true });
});

test("the page without a server opens photographs, keeps their objects, and writes files of all", async () => {
  await demo.button("Videos").click();
  await demo.page
    .getByLabel("Photographs", { exact: true })
    .setInputFiles(["rotated.jpg", "second.png", "old.bmp"].map((name) => join(photos, name)));
  await shown(demo, "old.bmp");
  await demo.page.locator(".counter", { hasText: "640 × 480" }).waitFor();
  await demo.page.keyboard.press("PageDown");
  await shown(demo, "rotated.jpg");
  await demo.page.locator(".counter", { hasText: "800 × 600" }).waitFor();
  await demo.click(...VASE);
  await demo.said(/Object 1: the mask covers .* of the image/);
  await demo.page.keyboard.press("PageDown");
  await shown(demo, "second.png");
  await demo.click(...APPLE);
  await demo.said(/Object 1: the mask covers/);
  await demo.page.keyboard.press("PageUp");
  await shown(demo, "rotated.jpg");
  expect(await demo.page.locator(".point").count()).toBe(1);

  await demo.button("Download", true).click();
  const formats = await demo.page.locator(".downloads button").allTextContents();
  expect(formats).toEqual(["COCO", "YOLO", "YOLO boxes", "LabelMe", "PNG masks", "Cut-outs", "Project"]);
  await demo.page.getByText(/Label Studio and GeoJSON need sam2fast serve/).waitFor();
  expect(await demo.page.getByText(/Simplify outlines|Polygons of/).count()).toBe(0); // shapely does that
  const found = await readExports(demo);
  expect(found.map(({ name, size, image }) => [name, size, image])).toEqual([
    ["rotated.jpg", [800, 600], [800, 600]],
    ["second.png", [900, 700], [900, 700]],
  ]);
  for (const { share, yolo, cutout } of found) {
    expect(share).toBeGreaterThan(0.005);
    expect(yolo).toBeGreaterThan(0.95);
    expect(cutout).toBe(1);
  }
  await demo.page.getByLabel("Validation (%)", { exact: true }).fill("50");
  const waiting = demo.page.waitForEvent("download");
  await demo.page.getByRole("dialog").getByRole("button", { name: "YOLO", exact: true }).click();
  const yolo = Object.keys(unzipSync(readFileSync(await (await waiting).path()))).sort();
  const [train, val] = yolo[1]!.includes("rotated") ? ["rotated.jpg", "second.png"] : ["second.png", "rotated.jpg"];
  const filesOf = (part: string, image: string) =>
    [`${part}/images/${image}`, `${part}/labels/${image.replace(/\..+/, ".txt")}`] as const;
  expect(yolo).toEqual(["data.yaml", ...filesOf("train", train), ...filesOf("val", val)]);
  await demo.page.keyboard.press("Escape");
  expect(demo.problems).toEqual([]);
});

test("cut-outs are feathered and cropped; mattes need a server", async () => {
  await demo.button("Download", true).click();
  const dialog = demo.page.getByRole("dialog");
  const edges = dialog.getByLabel("Edges");
  expect(await edges.locator("option").allTextContents()).toEqual(["Hard", "Feathered"]);
  await edges.selectOption("Feathered");
  await dialog.getByLabel("Crop cut-outs").check();
  await dialog.getByRole("button", { name: "This one" }).click();
  const waiting = demo.page.waitForEvent("download");
  await dialog.getByRole("button", { name: "Cut-outs", exact: true }).click();
  const code = `import io, json, sys, zipfile, numpy as np
from PIL import Image
archive = zipfile.ZipFile(sys.argv[1])
alpha = np.asarray(Image.open(io.BytesIO(archive.read(archive.namelist()[0]))))[..., 3]
rows, columns = (np.flatnonzero(alpha.any(axis)) for axis in (1, 0))
margins = rows[0], columns[0], alpha.shape[0] - 1 - rows[-1], alpha.shape[1] - 1 - columns[-1]
print(json.dumps({"margin": int(max(margins)), "soft": float(((alpha > 0) & (alpha < 255)).mean())}))`;
  const read = execFileSync(PYTHON, ["-c", code, await (await waiting).path()]).toString();
  const { margin, soft } = JSON.parse(read) as { margin: number; soft: number };
  expect(margin).toBe(8);
  expect(soft).toBeGreaterThan(0.01);
  await demo.page.keyboard.press("Escape");
  expect(demo.problems).toEqual([]);
});

test("transparent parts are grey, and stay transparent in cut-outs", async () => {
  const other = await Demo.open(browser, `${pages.site}page/`);
  await other.ready();
  await checkTransparent(other, join(photos, "sticker.png"));
  expect(other.problems).toEqual([]);
  await other.close();
});

test("the photographs of the package are beside the page", async () => {
  await demo.button("Videos").click();
  await demo.page.getByRole("dialog").getByRole("button", { name: "Cat", exact: true }).click();
  await shown(demo, "cat.jpg");
  expect(demo.problems).toEqual([]);
});

test("what needs a server is said", async () => {
  expect(await demo.button("Everything here").isDisabled()).toBe(true);
  await demo.page
    .getByText(/“Everything here” and finding an object in other photographs need sam2fast serve/)
    .waitFor();
});
