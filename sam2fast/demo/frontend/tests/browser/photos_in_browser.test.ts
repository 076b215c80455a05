import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Demo, launch } from "./demo";
import { PageServers } from "./page_servers";
import { APPLE, checkTransparent, makePhotos, readExports, shown, VASE } from "./photographs";

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
  await demo.page.getByText(/“Everything here” needs sam2fast serve/).waitFor();
});
