import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import type { Browser } from "playwright-core";
import { paintMask } from "../../src/masks/rle";
import { Demo, launch } from "./demo";

const FRAMES = 12; // of the video "Backwards"
const [LEFT, DOWN] = [12, 6]; // steps of the crosshair from the middle to the vase
const VASE = { x: 0.5 - 0.02 * LEFT, y: 0.5 + 0.02 * DOWN };
const MOST_TABS = 60;

let browser: Browser;
let demo: Demo;

beforeAll(async () => {
  browser = await launch();
  demo = await Demo.open(browser, inject("address"));
});

afterAll(() => browser.close());

test("with the box tool, Enter sets two corners", async () => {
  const { keyboard } = demo.page;
  await demo.ready();
  await tabTo(/Click to add a point/);
  await keyboard.press("b");
  await keyboard.press("Enter");
  await keyboard.press("Enter"); // the same place: no box
  expect(await demo.page.locator(".box-mark").count()).toBe(0);
  await keyboard.press("Enter");
  for (let step = 0; step < 20; step += 1) await keyboard.press("Shift+ArrowLeft");
  for (let step = 0; step < 18; step += 1) await keyboard.press("Shift+ArrowDown");
  await demo.page.locator(".box-mark.draft").waitFor();
  await keyboard.press("Enter");
  await demo.said(/Object 1: the mask covers/);
  const { left, top, width, height } = (await demo.page.locator(".box-mark").evaluate((mark) => {
    const { left, top, width, height } = (mark as HTMLElement).style;
    return { left, top, width, height };
  })) satisfies Record<string, string>;
  expect([left, top, width, height].map((share) => Math.round(parseFloat(share)))).toEqual([10, 50, 40, 36]);
  await keyboard.press("z");
  await keyboard.press("i");
  await demo.page.reload();
});

test("keyboard alone from clip to export", async () => {
  const { keyboard } = demo.page;
  await demo.ready();
  await tabTo("Videos and photographs");
  await keyboard.press("Enter");
  await tabTo("Backwards");
  await keyboard.press("Enter");
  await demo.page.locator(".counter", { hasText: `1 / ${FRAMES}` }).waitFor();
  await demo.ready();

  await tabTo(/^Backwards\. Click to add a point/);
  for (let step = 0; step < LEFT; step += 1) await keyboard.press("Shift+ArrowLeft");
  for (let step = 0; step < DOWN; step += 1) await keyboard.press("Shift+ArrowDown");
  await keyboard.press("Enter");
  await demo.said(/Object 1: the mask covers/);
  await demo.settled();
  const covered = Number(/covers ([\d.]+) percent/.exec((await demo.status().textContent())!)![1]) / 100;
  expect(covered).toBeGreaterThan(0.005);

  await keyboard.press("k");
  await demo.said(/Tracking is finished/);
  await keyboard.press("d");
  await demo.page.getByRole("dialog", { name: "Download" }).waitFor();
  await tabTo("YouTube-VIS");
  const waiting = demo.page.waitForEvent("download");
  await keyboard.press("Enter");
  const file = await waiting;
  expect(file.suggestedFilename()).toBe("Backwards_youtube_vis.json");
  expect((await demo.page.evaluate(describeFocus)).name).toBe("YouTube-VIS"); // for the next one
  await keyboard.press("Escape");
  await demo.page.locator("dialog").waitFor({ state: "detached" });

  const coco = JSON.parse(readFileSync(await file.path(), "utf8")) as Coco;
  expect(coco.videos.map(({ length }) => length)).toEqual([FRAMES]);
  expect(coco.annotations.map(({ name }) => name)).toEqual(["Object 1"]);
  const masks = coco.annotations[0]!.segmentations.map((mask) => {
    const [height, width] = mask!.size;
    const pixels = new Uint32Array(height * width);
    paintMask({ height, width, counts: mask!.counts }, pixels, 1);
    const clicked = pixels[Math.floor(VASE.y * height) * width + Math.floor(VASE.x * width)];
    return { clicked, share: pixels.reduce((sum, pixel) => sum + pixel, 0) / pixels.length };
  });
  expect(masks).toHaveLength(FRAMES);
  expect(masks[0]!.clicked).toBe(1);
  expect(masks[0]!.share).toBeCloseTo(covered, 3);
  for (const { share } of masks) expect(share / covered).toBeCloseTo(1, 0);
  expect(demo.problems).toEqual([]);
});

interface Coco {
  videos: { length: number }[];
  annotations: { name: string; segmentations: ({ size: [number, number]; counts: string } | null)[] }[];
}

/** Presses Tab until an element of this name has the focus, which must be seen. */
async function tabTo(name: string | RegExp): Promise<void> {
  const passed: string[] = [];
  for (let tab = 0; tab < MOST_TABS; tab += 1) {
    await demo.page.keyboard.press("Tab");
    const focused = await demo.page.evaluate(describeFocus);
    if (typeof name === "string" ? focused.name === name : name.test(focused.name)) {
      return expect(focused.isSeen, `the focus on ${name} is seen`).toBe(true);
    }
    passed.push(focused.name);
  }
  throw new Error(`Tab does not reach ${name}, only ${passed.join(", ")}`);
}

/** Name of the focused element, and whether it is in the window with an outline; runs in the page. */
function describeFocus(): { name: string; isSeen: boolean } {
  const element = document.activeElement!;
  const { top, bottom, left, right } = element.getBoundingClientRect();
  const isInside = top < innerHeight && bottom > 0 && left < innerWidth && right > 0;
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  const hasOutline = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
  return { name: element.getAttribute("aria-label") ?? element.textContent.trim(), isSeen: isInside && hasOutline };
}
