import { execFileSync } from "node:child_process";
import { cpSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { Demo, launch } from "./demo";
import { PageServers } from "./page_servers";
import { PYTHON } from "./serve";
import { overlap, trackByPage, trackByPython } from "./trackers";

const VASE = [0.26, 0.62] as const;
// A GPU in software, which the page takes for one in hardware, and one that cannot be used.
const SOFTWARE_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];
const AS_HARDWARE = 'Object.defineProperty(GPUAdapterInfo.prototype, "isFallbackAdapter", { value: false });';
const WITHOUT_DEVICE = 'GPUAdapter.prototype.requestDevice = () => Promise.reject(new Error("no device"));';

let folder: string;
let site: string; // address of the folder
let pages: PageServers;
let browser: Browser;
let demo: Demo;

beforeAll(async () => {
  pages = await PageServers.start();
  ({ folder, site } = pages);
  browser = await launch(...SOFTWARE_GPU);
  demo = await Demo.open(browser, `${site}page/`);
  await demo.ready();
});

afterAll(async () => {
  await browser.close();
  pages.stop();
});

async function upload(page: Demo, file: string, frames = 6): Promise<void> {
  await page.button("Videos").click();
  await page.page.getByLabel("Video file").setInputFiles(join(inject("data"), file));
  await page.page.locator(".counter", { hasText: `1 / ${frames}` }).waitFor();
  await page.ready();
}

/** What `read_exports.py` prints. */
interface Agreement extends Record<"png" | "cutouts" | "yolo" | "coco" | "labelme" | "webm" | "difference", number> {
  readonly names: string[];
  readonly size: number[];
  readonly inside: number[];
}

/** The page in another folder, whose worker runs a script first. */
function openWith(name: string, script: string): Promise<Demo> {
  cpSync(join(folder, "page"), join(folder, name), { recursive: true });
  const assets = join(folder, name, "assets");
  const worker = join(
    assets,
    readdirSync(assets).find((file) => file.startsWith("worker-"))!,
  );
  writeFileSync(worker, script + readFileSync(worker, "utf8"));
  return Demo.open(browser, `${site}${name}/`);
}

/** Run lengths of the first object in COCO's file, by frame. */
function masksOf(path: string): (string | undefined)[] {
  const { annotations } = JSON.parse(readFileSync(path, "utf8")) as {
    annotations: { segmentations: ({ counts: string } | null)[] }[];
  };
  return annotations[0]!.segmentations.map((mask) => mask?.counts);
}

test("the page's tracker gives the masks of the ONNX runtime in Python, with both strategies", async () => {
  const model = join(folder, "page", "in_browser", "model");
  const found = new Set<string>();
  for (const strategy of ["sam2", "together"] as const) {
    const out = join(folder, `steps-${strategy}`);
    const expected = trackByPython(model, strategy, out);
    const overlaps = await trackByPage(model, strategy, out, expected);
    expect(overlaps.length).toBeGreaterThan(30);
    expect(Math.min(...overlaps)).toBeGreaterThan(0.99);
    found.add(JSON.stringify(expected));
  }
  expect(found.size).toBe(2);
});

test("a click segments, without a server", async () => {
  const place = await demo.at(...VASE);
  await demo.page.mouse.move(place.x, place.y);
  await demo.page.locator("[data-shows=preview]").waitFor();
  await demo.click(...VASE);
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
  await demo.page.locator(".model-badge").click();
  const dialog = demo.page.getByRole("dialog", { name: "Model" });
  await dialog.getByText("This page has one model and no server.").waitFor();
  expect(await dialog.getByRole("button", { name: /^(Use|Download)/ }).count()).toBe(0);
  await demo.page.keyboard.press("Escape");
});

test("a video of the user is converted, tracked and exported: readers of each format find the same masks", async () => {
  await upload(demo, "short.mp4");
  await demo.click(...VASE);
  await demo.said(/Object 1: the mask covers/);
  await demo.page.keyboard.press("n");
  await demo.click(0.6, 0.8);
  await demo.said(/Object 2: the mask covers/);
  await demo.button("Track", true).click();
  await demo.said(/Tracking is finished/);
  await demo.page.getByRole("img", { name: /^Confidence: lowest on frame \d/ }).waitFor();

  await demo.effect("Objects", "Original"); // without outlines
  const paths: string[] = [];
  for (const [format, name] of [
    ["YouTube-VIS", "short_youtube_vis.json"],
    ["PNG masks", "short_masks.zip"],
    ["Cut-outs", "short_cutouts.zip"],
    ["YOLO", "short_yolo.zip"],
    ["COCO", "short_coco.zip"],
    ["LabelMe", "short_labelme.zip"],
    ["Transparent video", "short_cutout.webm"],
  ] as const) {
    const file = await demo.download(format);
    expect(file.name).toBe(name);
    paths.push(file.path);
  }
  const read = execFileSync(PYTHON, [join(import.meta.dirname, "read_exports.py"), ...paths]);
  const { names, inside, difference, webm, size, ...lossless } = JSON.parse(read.toString()) as Agreement;
  expect(names).toEqual(["Object 1", "Object 2"]);
  expect(size).toEqual([320, 480]);
  expect(inside).toHaveLength(6);
  expect(Math.min(...inside)).toBeGreaterThan(0.01);
  expect(lossless).toEqual({ png: 1, cutouts: 1, yolo: 1, coco: 1, labelme: 1 });
  expect(webm).toBeGreaterThan(0.99);
  expect(difference).toBeLessThan(8);

  const videos = [paths.at(-1)!];
  for (const [format, name] of [
    ["Video", "short.mp4"],
    ["Green screen", "short_green.mp4"],
    ["Matte", "short_matte.mp4"],
    ["Frame", "short_00005.png"], // tracking ends on the last one
    ["Project", "short.sam2fast.json"],
  ] as const) {
    const file = await demo.download(format);
    expect(file.name).toBe(name);
    expect(readFileSync(file.path).length).toBeGreaterThan(500);
    if (name.endsWith(".mp4")) videos.push(file.path);
  }
  for (const path of videos) {
    const facts = execFileSync(PYTHON, [join(import.meta.dirname, "describe_video.py"), path]);
    expect(JSON.parse(facts.toString())).toMatchObject({ frames: 6, rate: 10 });
  }
  await demo.shot("without a server");
  expect(demo.problems).toEqual([]);
});

test("WebGPU tracks as WebAssembly does; a GPU in software is left alone", async () => {
  expect(await demo.page.locator(".model-badge").textContent()).toContain("WASM");
  const expected = masksOf((await demo.download("YouTube-VIS")).path);
  const page = await openWith("webgpu", AS_HARDWARE);
  page.page.setDefaultTimeout(120_000);
  await page.ready();
  await page.page.keyboard.press("v"); // no previews
  await upload(page, "short.mp4");
  await page.click(...VASE);
  await page.said(/Object 1: the mask covers/);
  // The software compiles for every number of memories, in seconds: two frames only.
  await page.goTo(1);
  await page.page.keyboard.press("]");
  await page.page.keyboard.press("Home");
  await page.button("Track", true).click();
  await page.said(/Tracking is finished/);
  expect(await page.page.locator(".model-badge").textContent()).toContain("WebGPU");
  const found = masksOf((await page.download("YouTube-VIS")).path);
  expect(found.map(Boolean)).toEqual([true, true, false, false, false, false]);
  for (const frame of [0, 1]) expect(overlap(found[frame]!, expected[frame]!)).toBeGreaterThan(0.99);
  expect(page.problems).toEqual([]);
  await page.close();
});

test("where WebGPU fails, WebAssembly runs the model, and the page says so", async () => {
  const page = await openWith("failing", AS_HARDWARE + WITHOUT_DEVICE);
  const warning = page.page.waitForEvent("console", (message) => /WebGPU has failed/.test(message.text()));
  await page.ready();
  await page.click(...VASE);
  await page.said(/Object 1: the mask covers/);
  await warning;
  const badge = page.page.locator(".model-badge");
  expect(await badge.textContent()).toContain("WASM");
  expect(await badge.getAttribute("title")).toMatch(/WebGPU has failed: ./);
  await page.close();
});

test("a video of variable rate says that its frames have other numbers; one of a constant rate keeps them", async () => {
  const note = demo.page.locator(".banner", { hasText: "is shown at a constant" });
  const says =
    /“uneven\.mp4” is shown at a constant 6\.67 frames per second, with 1 frame of the file shown longer and 1 frame left out\. Frame numbers, also in files, are those of this rate\./;
  await upload(demo, "uneven.mp4");
  await note.filter({ hasText: says }).waitFor();
  await demo.button("Dismiss").click();
  await demo.button("Videos").click();
  await demo.button("uneven.mp4").click();
  await note.filter({ hasText: says }).waitFor();
  await upload(demo, "cinema.webm", 24);
  await demo.said(/cinema\.webm is open, 24 frames/);
  expect(await note.count()).toBe(0);
  expect(demo.problems).toEqual([]);
});

test("a strategy is chosen as with a server: the video opens again with its clicks", async () => {
  await upload(demo, "short.mp4");
  await demo.click(...VASE);
  await demo.page.keyboard.press("n");
  await demo.click(0.6, 0.8);
  await demo.said(/Object 2: the mask covers/);
  await demo.page.locator(".model-badge").click();
  const choice = demo.page.getByRole("dialog", { name: "Model" }).getByRole("combobox");
  expect(await choice.locator("option").allTextContents()).toEqual([
    "SAM 2: the newest six frames",
    "Together: suggested for several objects, above all look-alikes that cross",
  ]);
  expect(await choice.inputValue()).toBe("sam2");
  await choice.selectOption("together");
  await demo.shot("strategy without a server");
  await demo.page.keyboard.press("Escape");
  await demo.ready();
  await demo.settled();
  await demo.button("Track", true).click();
  await demo.said(/Tracking is finished/);
  await demo.page.locator(".model-badge").click();
  expect(await choice.inputValue()).toBe("together");
  await demo.page.keyboard.press("Escape");
  expect(demo.problems).toEqual([]);
});
