import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { violations } from "./accessibility";
import { Demo, launch } from "./demo";
import { APPLE, makePhotos, shown, VASE } from "./photographs";

const SPECK = [0.9, 0.15] as const;
const SIZES = [
  [1440, 900],
  [1024, 768],
  [390, 844],
  [360, 225], // 400 % zoom of 1440 x 900
] as const;

let browser: Browser;
let demo: Demo;

beforeAll(async () => {
  browser = await launch();
  demo = await Demo.open(browser, inject("address"));
  await demo.ready();
});

afterAll(() => browser.close());

const slider = (name = "Object 1") => demo.page.getByRole("slider", { name: `Clean ${name} of specks and holes` });
const points = () => demo.page.getByText(/^Polygons of .*: [\d,]+ points? /).innerText();
const countOf = (text: string) => Number(/(\d+) point/.exec(text)![1]);

/** The masks of the first annotated frame in a file of the page. */
async function boxes(): Promise<number[][]> {
  await demo.page.keyboard.press("d");
  const waiting = demo.page.waitForEvent("download");
  await demo.page.getByRole("dialog").getByRole("button", { name: "YouTube-VIS" }).click();
  interface File {
    annotations: { bboxes: (number[] | null)[] }[];
  }
  const { annotations } = JSON.parse(readFileSync(await (await waiting).path(), "utf8")) as File;
  await demo.page.keyboard.press("Escape");
  await demo.page.locator("dialog").waitFor({ state: "detached" });
  return annotations.map(({ bboxes }) => bboxes.find(Boolean)!);
}

async function paintSpeck(): Promise<void> {
  await demo.page.keyboard.press("p");
  const { x, y } = await demo.at(...SPECK);
  await demo.page.mouse.move(x, y);
  await demo.page.mouse.down();
  await demo.page.mouse.move(x + 4, y, { steps: 2 });
  await demo.page.mouse.up();
  await demo.settled();
  await demo.page.keyboard.press("i");
}

test("a speck goes while the slider moves, from files, too, and undo brings it back in one step", async () => {
  await demo.click(...VASE);
  await demo.said(/Object 1: the mask covers/);
  const plain = await drawnAtSpeck();
  await paintSpeck();
  const speckled = await drawnAtSpeck();
  expect(speckled).not.toBe(plain);
  const [dirty] = await boxes();

  await slider().focus();
  for (const key of ["ArrowRight", "ArrowRight", "End"]) await demo.page.keyboard.press(key);
  expect(await slider().getAttribute("aria-valuetext")).toMatch(/^under \d+ pixels$/);
  expect(await drawnAtSpeck()).toBe(plain);
  await leave();
  const [clean] = await boxes();
  expect(clean![2]).toBeLessThan(0.5 * dirty![2]!);
  await demo.page.keyboard.press("z");
  expect(await drawnAtSpeck()).toBe(speckled);
  expect(await slider().getAttribute("aria-valuetext")).toBe("off");
  await demo.page.keyboard.press("Shift+Z");
  expect(await drawnAtSpeck()).toBe(plain);
});

test("all objects get the size of one, and it is kept for the next visit", async () => {
  expect(await demo.button("Apply to all").count()).toBe(0);
  const size = await slider().getAttribute("aria-valuetext");
  await demo.page.keyboard.press("n");
  await demo.click(...APPLE);
  await demo.said(/Object 2: the mask covers/);
  expect(await slider("Object 2").getAttribute("aria-valuetext")).toBe("off");
  await demo.page.keyboard.press("1");
  await demo.button("Apply to all").click();
  await demo.page.keyboard.press("2");
  expect(await slider("Object 2").getAttribute("aria-valuetext")).toBe(size);
  for (const [width, height] of SIZES) {
    await demo.page.setViewportSize({ width, height });
    await slider("Object 2").scrollIntoViewIfNeeded();
    await demo.shot(`clean ${width}`);
    expect(await violations(demo.page)).toEqual([]);
  }
  await demo.page.setViewportSize({ width: 1280, height: 800 });
  await demo.saved();
  await demo.page.reload();
  await demo.ready();
  expect(await slider("Object 2").getAttribute("aria-valuetext")).toBe(size);
});

test("the number of points is said before the download, and fewer than without simplifying", async () => {
  await demo.page.keyboard.press("d");
  const choice = demo.page.getByRole("combobox", { name: "Simplify outlines" });
  expect(await choice.inputValue()).toBe("1");
  await expect.poll(points).toMatch(/^Polygons of YOLO and LabelMe: \d+ points on this frame$/);
  const simple = countOf(await points());
  for (const [width, height] of SIZES) {
    await demo.page.setViewportSize({ width, height });
    await choice.scrollIntoViewIfNeeded();
    await demo.shot(`simplify ${width}`);
    expect(await violations(demo.page)).toEqual([]);
  }
  await demo.page.setViewportSize({ width: 1280, height: 800 });
  await choice.selectOption("0");
  await expect.poll(async () => countOf(await points())).toBeGreaterThan(2 * simple);
  await demo.page.keyboard.press("Escape");
  expect(demo.problems).toEqual([]);
});

test("masks of a photograph are cleaned and their points counted", async () => {
  const folder = makePhotos();
  await demo.button("Videos").click();
  await demo.page.getByLabel("Photographs", { exact: true }).setInputFiles(join(folder, "first.jpg"));
  await shown(demo, "first.jpg");
  rmSync(folder, { recursive: true });
  await demo.click(...VASE);
  await demo.said(/Object 1: the mask covers/);
  await paintSpeck();
  const speckled = await drawnAtSpeck();
  await slider().focus();
  await demo.page.keyboard.press("End");
  expect(await drawnAtSpeck()).not.toBe(speckled);
  await leave();
  await demo.page.keyboard.press("d");
  await expect.poll(points).toMatch(/^Polygons of YOLO, LabelMe and GeoJSON: \d+ points in this photograph$/);
  await demo.shot("simplify photograph");
  expect(await violations(demo.page)).toEqual([]);
  await demo.page.keyboard.press("Escape");
  expect(demo.problems).toEqual([]);
});

/** Ends the slider's focus: with it the page has no shortcuts. */
const leave = () => demo.page.evaluate("document.activeElement.blur()");

/** The pixel of the frame where the speck was painted. */
async function drawnAtSpeck(): Promise<string> {
  await demo.page.mouse.move(0, 0);
  await demo.settled();
  return demo.page.evaluate(([x, y]) => {
    const canvas = document.querySelector<HTMLCanvasElement>(".frame canvas[data-frame]")!;
    const [left, top] = [Math.round(x * canvas.width), Math.round(y * canvas.height)];
    return canvas.getContext("2d")!.getImageData(left, top, 1, 1).data.join(" ");
  }, SPECK);
}
