import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { strFromU8, unzipSync } from "fflate";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { Demo, launch } from "./demo";
import { PYTHON, sam2fast } from "./serve";
import { trackByPage, trackByPython } from "./trackers";

let folder: string;
let files: ChildProcess; // the file server
let browser: Browser;
let demo: Demo;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "sam2fast-page-"));
  execFileSync(PYTHON, sam2fast("export", "--format", "web", "--out", join(folder, "page"), "--quiet"));
  files = spawn(PYTHON, ["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder]);
  const address = await new Promise<string>((resolve) => {
    files.stdout!.on("data", (line: Buffer) => {
      const port = / port (\d+)/.exec(line.toString())?.[1];
      if (port) resolve(`http://127.0.0.1:${port}/page/`);
    });
  });
  browser = await launch();
  demo = await Demo.open(browser, address);
  await demo.ready();
});

afterAll(async () => {
  await browser.close();
  files.kill();
  rmSync(folder, { recursive: true });
});

async function download(name: string): Promise<{ name: string; path: string }> {
  await demo.button("Download", true).click();
  const waiting = demo.page.waitForEvent("download", { timeout: 60_000 });
  await demo.page.getByRole("dialog").getByRole("button", { name, exact: true }).click();
  const found = await waiting;
  await demo.page.keyboard.press("Escape");
  await demo.page.locator("dialog").waitFor({ state: "detached" });
  return { name: found.suggestedFilename(), path: await found.path() };
}

test("the page's tracker gives the masks of the ONNX runtime in Python", async () => {
  const model = join(folder, "page", "in_browser", "model");
  const expected = trackByPython(model, join(folder, "steps"));
  const overlaps = await trackByPage(model, join(folder, "steps"), expected);
  expect(overlaps.length).toBeGreaterThan(30);
  expect(Math.min(...overlaps)).toBeGreaterThan(0.99);
});

test("a click segments, without a server", async () => {
  const place = await demo.at(0.26, 0.62);
  await demo.page.mouse.move(place.x, place.y);
  await demo.page.locator("[data-shows=preview]").waitFor();
  await demo.click(0.26, 0.62);
  await demo.said(/Object 1: the mask covers/);
  expect((await demo.difference()).share).toBeGreaterThan(0.01);

  const candidates = demo.page.getByRole("group", { name: "Masks for this click" });
  await candidates.waitFor();
  expect(await candidates.getByRole("button", { name: /^Mask \d/ }).count()).toBe(3);
  // The click has the best of them.
  const best = candidates.getByRole("button", { name: /^Mask 1/ });
  expect(await best.getAttribute("aria-pressed")).toBe("true");
});

test("what needs a server is not offered", async () => {
  expect(await demo.page.getByLabel("Masks file").count()).toBe(0);
  expect(await demo.page.locator(".model-badge").isDisabled()).toBe(true);
});

test("a video of the user is converted, tracked and exported", async () => {
  await demo.button("Videos").click();
  await demo.page.getByLabel("Video file").setInputFiles(join(inject("data"), "short.mp4"));
  await demo.page.locator(".counter", { hasText: "1 / 6" }).waitFor();
  await demo.ready();
  await demo.click(0.26, 0.62);
  await demo.said(/Object 1: the mask covers/);
  await demo.page.keyboard.press("n");
  await demo.click(0.6, 0.8);
  await demo.said(/Object 2: the mask covers/);
  await demo.button("Track", true).click();
  await demo.said(/Tracking is finished/);
  await demo.page.getByRole("img", { name: /^Confidence: lowest on frame \d/ }).waitFor();

  const masks = await download("PNG masks");
  expect(masks.name).toBe("short_masks.zip");
  expect(Object.keys(unzipSync(readFileSync(masks.path)))).toHaveLength(6);
  const polygons = await download("LabelMe");
  const files = unzipSync(readFileSync(polygons.path));
  expect(Object.keys(files)).toHaveLength(12);
  const { shapes } = JSON.parse(strFromU8(files["00005.json"]!)) as { shapes: { label: string }[] };
  expect(new Set(shapes.map(({ label }) => label))).toEqual(new Set(["Object 1", "Object 2"]));
  const video = await download("Video");
  const facts = execFileSync(PYTHON, [join(import.meta.dirname, "describe_video.py"), video.path]);
  expect(JSON.parse(facts.toString())).toMatchObject({ frames: 6, rate: 10 });
  await demo.shot("without a server");
  expect(demo.problems).toEqual([]);
});
