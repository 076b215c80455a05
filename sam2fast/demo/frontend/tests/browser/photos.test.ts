import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { violations } from "./accessibility";
import { Demo, launch } from "./demo";
import { PYTHON } from "./serve";

const VASE = [0.26, 0.62] as const;
const APPLE = [0.43, 0.86] as const;

let folder: string;
let browser: Browser;
let demo: Demo;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "sam2fast-photos-"));
  execFileSync(PYTHON, [join(import.meta.dirname, "make_photos.py"), folder], { stdio: "inherit" });
  browser = await launch();
  demo = await Demo.open(browser, inject("address"));
  await demo.ready();
});

afterAll(async () => {
  await browser.close();
  rmSync(folder, { recursive: true });
});

const files = (...names: string[]) => names.map((name) => join(folder, name));
const opened = async (name: string) => {
  await demo.page.locator(".clip-name", { hasText: name }).waitFor();
  await demo.ready();
};
const photo = (name: string) => demo.page.getByRole("region", { name: "Photographs" }).getByRole("button", { name });

test("a photograph is opened, and a click finds an object in its full size", async () => {
  await demo.button("Videos").click();
  await demo.page.getByLabel("Photographs", { exact: true }).setInputFiles(files("first.jpg"));
  await opened("first.jpg");
  await demo.page.locator(".counter", { hasText: "1600 × 1200" }).waitFor();
  await demo.click(...VASE);
  await demo.said(/Object 1: the mask covers .* of the image/);
  expect(await demo.page.locator(".point").count()).toBe(1);
  await demo.shot("photograph");
  const shown = await demo.page.locator("body").innerText();
  expect(shown).not.toMatch(/track|\bframes?\b|play/i);
  expect(await demo.page.locator(".object .thumbnail canvas").count()).toBe(1);
});

test("a rotated photograph stands upright", async () => {
  await demo.page.getByLabel("More photographs").setInputFiles(files("rotated.jpg"));
  await opened("rotated.jpg");
  await demo.page.locator(".counter", { hasText: "800 × 600" }).waitFor();
  await demo.click(...VASE);
  await demo.said(/Object 1: the mask covers/);
  await demo.shot("rotated");
});

test("next and previous keep the objects of three photographs", async () => {
  await demo.page.getByLabel("More photographs").setInputFiles(files("second.png", "third.webp", "old.bmp"));
  await opened("old.bmp"); // the first of the new ones
  await demo.page.keyboard.press("PageDown");
  await opened("second.png");
  await demo.click(...VASE);
  await demo.page.keyboard.press("n");
  await demo.click(...APPLE);
  await demo.said(/Object 2: the mask covers/);
  await demo.page.keyboard.press("x");
  await opened("third.webp");
  await photo("second.png done, 2 objects").waitFor();
  expect(await demo.page.locator(".point").count()).toBe(0);
  await demo.page.keyboard.press("PageUp");
  await opened("second.png");
  expect(await demo.page.locator(".point").count()).toBe(2);
  await photo("first.jpg 1 object").click();
  await opened("first.jpg");
  expect(await demo.page.locator(".point").count()).toBe(1);
  await demo.shot("list");
  expect(await violations(demo.page)).toEqual([]);
  expect(demo.problems).toEqual([]);
});
