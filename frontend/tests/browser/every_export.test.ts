import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { Demo, launch } from "./demo";
import { PageServers } from "./page_servers";
import { PYTHON } from "./serve";

// Of large.mp4, of which the page plays a smaller copy.
const SIZE = [800, 1200];
const SEEN = [720, 1080];
const FRAMES = 4;
const MP4 = { codec: "h264", range: 1, matrix: 1, rate: 10, frames: FRAMES, size: SIZE };

/** What is expected of each file: its name, and facts that other programs find in it. */
const FILES: Record<string, [name: string, facts: object]> = {
  Video: ["large.mp4", MP4],
  "Green screen": ["large_green.mp4", MP4],
  Matte: ["large_matte.mp4", { ...MP4, sound: 0 }],
  "Transparent video": ["large_cutout.webm", { codec: "vp9", rate: 10, frames: FRAMES, size: SIZE }],
  "ProRes 4444": ["large_cutout.mov", { codec: "prores", rate: 10, frames: FRAMES, size: SIZE }],
  "Cut-outs": ["large_cutouts.zip", {}],
  "Object mattes": ["large_mattes.zip", {}],
  "Object cut-outs": ["large_objects.zip", {}],
  Frame: ["large_00000.png", { size: SEEN }],
  "PNG masks": ["large_masks.zip", {}],
  COCO: ["large_coco.zip", {}],
  "YouTube-VIS": ["large_youtube_vis.json", {}],
  YOLO: ["large_yolo.zip", {}],
  LabelMe: ["large_labelme.zip", {}],
  Project: ["large.sam2fast.json", {}],
};
/** Browsers write no ProRes, and no ZIP larger than their memory. */
const OF_SERVER = ["ProRes 4444", "Object mattes", "Object cut-outs"];

function filesOf(where: string): typeof FILES {
  return Object.fromEntries(Object.entries(FILES).filter(([name]) => where === "serve" || !OF_SERVER.includes(name)));
}

const READ = ["YouTube-VIS", "PNG masks", "Cut-outs", "YOLO", "COCO", "LabelMe", "Transparent video"];

interface Facts {
  readonly sound: number;
  /** From the other video. */
  readonly difference?: number;
  readonly inside: number[];
  readonly green: number[];
}

let browser: Browser;
let pages: PageServers;

beforeAll(async () => {
  browser = await launch();
  pages = await PageServers.start();
}, 600_000); // the export of the page takes minutes on a busy machine

afterAll(async () => {
  await browser.close();
  pages.stop();
});

// A file server sends the same page as `serve --in-browser`; in_browser.test.ts downloads each format there.
describe.each([
  ["serve", () => inject("address")],
  ["serve --in-browser", () => pages.served],
])("%s", (where, address) => {
  let demo: Demo;
  const files = new Map<string, { name: string; path: string }>();

  beforeAll(async () => {
    demo = await Demo.open(browser, address());
    demo.page.setDefaultTimeout(120_000);
    await demo.ready();
    await demo.button("Videos").click();
    await demo.page.getByLabel("Video file").setInputFiles(join(inject("data"), "large.mp4"));
    await demo.page.locator(".clip-name", { hasText: "large.mp4" }).waitFor();
    await demo.ready();
    await demo.click(0.26, 0.62);
    await demo.said(/Object 1: the mask covers/);
    await demo.page.keyboard.press("n");
    await demo.click(0.6, 0.8);
    await demo.said(/Object 2: the mask covers/);
    await demo.button("Track", true).click();
    await demo.said(/Tracking is finished/);
    await demo.effect("Objects", "Original"); // the video as it is
    await demo.page.keyboard.press("Home");
    await demo.page.locator('.frame canvas[data-frame="0"]').waitFor();
  });

  afterAll(() => demo.close());

  test("the dialog offers these files, and their size", async () => {
    await demo.button("Download", true).click();
    expect(await demo.page.locator(".downloads button").allTextContents()).toEqual(Object.keys(filesOf(where)));
    const sizes = await demo.page.getByLabel("Size").locator("option").allTextContents();
    expect(sizes).toEqual(["1200 × 800, your file’s", "1080 × 720, as shown here: faster"]);
    await demo.shot("downloads");
    await demo.page.keyboard.press("Escape");
    await demo.page.locator("dialog").waitFor({ state: "detached" });
  });

  test.each(Object.entries(filesOf(where)))("%s", async (format, [name, expected]) => {
    const file = await demo.download(format);
    files.set(format, file);
    expect(file.name).toBe(name);
    expect(readFileSync(file.path).length).toBeGreaterThan(500);
    if (/\.(mp4|mov|webm)$/.test(name)) expect(describeVideo(file.path)).toMatchObject(expected);
    if (name.endsWith(".png")) expect(sizeOfPng(file.path)).toEqual(SEEN);
    if (name.endsWith("2fast.json"))
      expect(JSON.parse(readFileSync(file.path, "utf8"))).toHaveProperty("numFrames", FRAMES);
    expect(demo.problems).toEqual([]);
  });

  test.each(["Video", "Green screen", "Transparent video", "PNG masks"])("%s, smaller", async (format) => {
    const file = await demo.download(format, "smaller");
    const [name, expected] = FILES[format]!;
    const share = readFileSync(file.path).length / readFileSync(files.get(format)!.path).length;
    expect(file.name).toBe(name);
    if (name.endsWith(".zip")) expect(share).toBeCloseTo(1, 2);
    else {
      expect(share).toBeLessThan(0.9);
      expect(describeVideo(file.path)).toMatchObject(expected);
    }
    expect(demo.problems).toEqual([]);
  });

  test("all files agree", () => {
    const paths = READ.map((format) => files.get(format)!.path);
    const read = execFileSync(PYTHON, [join(import.meta.dirname, "read_exports.py"), ...paths]);
    const { names, size, inside, difference, webm, yolo, labelme, ...lossless } = JSON.parse(read.toString()) as {
      names: string[];
      size: number[];
      inside: number[];
      difference: number;
      webm: number;
      yolo: number;
      labelme: number;
    };
    expect({ names, size }).toEqual({ names: ["Object 1", "Object 2"], size: SIZE });
    expect(Math.min(...inside)).toBeGreaterThan(0.01);
    expect(lossless).toEqual({ png: 1, cutouts: 1, coco: 1 });
    const polygons = Math.min(yolo, labelme);
    expect(polygons).toBeGreaterThan(0.95);
    if (where !== "serve") expect(polygons).toBe(1); // the server simplifies outlines
    expect(webm).toBeGreaterThan(0.99);
    expect(difference).toBeLessThan(8);

    const video = describeVideo(files.get("Video")!.path, join(inject("data"), "large.mp4"));
    expect(video.difference).toBeLessThan(3);
    const matte = describeVideo(files.get("Matte")!.path);
    const green = describeVideo(files.get("Green screen")!.path);
    inside.forEach((share, frame) => {
      expect(matte.inside[frame]).toBeCloseTo(share, 2.5);
      expect(green.green[frame]).toBeCloseTo(1 - share, 1.7);
    });
    const { "ProRes 4444": prores } = Object.fromEntries(files);
    if (prores) expect(describeVideo(prores.path).sound).toBeCloseTo(FRAMES / 10, 0);
    for (const format of ["Video", "Green screen", "Transparent video"]) {
      expect(describeVideo(files.get(format)!.path).sound, format).toBeCloseTo(FRAMES / 10, 0);
    }
  });
});

const described = new Map<string, Facts>();

function describeVideo(...paths: string[]): Facts {
  const key = paths.join();
  if (!described.has(key)) {
    const found = execFileSync(PYTHON, [join(import.meta.dirname, "describe_video.py"), ...paths]);
    described.set(key, JSON.parse(found.toString()) as Facts);
  }
  return described.get(key)!;
}

/** Height and width. */
function sizeOfPng(path: string): number[] {
  const bytes = readFileSync(path);
  return [bytes.readUInt32BE(20), bytes.readUInt32BE(16)];
}
