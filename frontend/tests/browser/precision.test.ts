import { readFileSync } from "node:fs";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { violations } from "./accessibility";
import { Demo, launch } from "./demo";

const VASE = [0.26, 0.62] as const;
const SPOT = [0.4, 0.5] as const;

let browser: Browser;
let demo: Demo;

beforeAll(async () => {
  browser = await launch();
  demo = await Demo.open(browser, inject("address"));
  await demo.ready();
  await demo.button("Videos").click();
  await demo.button("Backwards").click();
  await demo.page.locator(".counter", { hasText: "1 / 12" }).waitFor();
  await demo.ready();
});

afterAll(() => browser.close());

const sketch = (shows: string) => demo.page.locator(`.sketch[data-shows="${shows}"]`);
const candidates = () => demo.page.getByRole("group", { name: "Masks for this click" });
const marked = () => demo.page.evaluate(paintedPixels, ".sketch");

async function hover(x: number, y: number): Promise<void> {
  const place = await demo.at(x, y);
  await demo.page.mouse.move(place.x, place.y);
}

test("the mask under the pointer is shown before the click, which then finds it", async () => {
  await hover(...VASE);
  await sketch("preview").waitFor();
  const preview = await marked();
  expect(preview).toBeGreaterThan(0.01);
  await demo.shot("preview");
  await demo.page.keyboard.press("v");
  await sketch("nothing").waitFor();
  await demo.page.keyboard.press("v");
  await demo.click(...VASE);
  await demo.said(/Object 1: the mask covers/);
  const covered = Number(/covers ([\d.]+) percent/.exec((await demo.status().textContent())!)![1]) / 100;
  expect(preview).toBeGreaterThan(covered); // with its outline
  expect(preview).toBeLessThan(1.5 * covered);
});

test("another candidate becomes the mask that is tracked; undo returns to the first", async () => {
  await candidates().waitFor();
  const best = (await demo.difference()).share;
  expect(
    await candidates()
      .getByRole("button", { name: /^Mask 1/ })
      .getAttribute("aria-pressed"),
  ).toBe("true");
  await demo.page.keyboard.press("c");
  await demo.said(/^Mask 2 of 3/);
  await demo.settled();
  const other = (await demo.difference()).share;
  expect(Math.abs(other - best)).toBeGreaterThan(0.001);
  await demo.shot("candidates");
  expect(await violations(demo.page)).toEqual([]);
  await demo.page.keyboard.press("z");
  await demo.settled();
  expect((await demo.difference()).share).toBeCloseTo(best, 3);
  await candidates()
    .getByRole("button", { name: /^Mask 2/ })
    .click();
  await demo.settled();
  await demo.page.keyboard.press("k");
  await demo.said(/finished/);
  await demo.goTo(0);
  expect((await demo.difference()).share).toBeCloseTo(other, 3);
});

test("the confidence lane shows the weakest frame, and a key goes there", async () => {
  const lane = demo.page.getByRole("img", { name: /^Confidence: lowest on frame \d+, \d+ percent/ });
  const weakest = Number(/frame (\d+)/.exec((await lane.getAttribute("aria-label"))!)![1]) - 1;
  expect(weakest).toBeGreaterThan(0); // the clicked frame is the user's own
  expect(await lane.locator("rect").count()).toBe(12);
  await demo.page.keyboard.press("w");
  await demo.page.locator(`.frame canvas[data-frame="${weakest}"]`).waitFor();
  await demo.said(new RegExp(`Frame ${weakest + 1}, confidence \\d+ percent`));
  await demo.shot("confidence");
  await demo.page.keyboard.press("w");
  await demo.page.locator(`.frame canvas[data-frame]:not([data-frame="${weakest}"])`).waitFor();
  await demo.goTo(0);
});

test("wheel, keys and drags zoom and move the frame; a click hits what it points to", async () => {
  const whole = (await demo.page.locator(".frame").boundingBox())!;
  await hover(...SPOT);
  const before = await demo.at(...SPOT);
  for (let turn = 0; turn < 3; turn += 1) await demo.page.mouse.wheel(0, -200);
  await demo.button("300 %").or(demo.page.locator('[data-zoomed="true"]')).first().waitFor();
  const zoomed = (await demo.page.locator(".frame").boundingBox())!;
  expect(zoomed.width).toBeGreaterThan(3 * whole.width);
  const after = await demo.at(...SPOT); // the spot under the pointer stays there
  expect(Math.hypot(after.x - before.x, after.y - before.y)).toBeLessThan(4); // the pointer is at whole pixels
  await demo.shot("zoomed");
  await demo.page.mouse.down();
  await demo.page.mouse.move(before.x + 60, before.y - 30, { steps: 3 });
  await demo.page.mouse.up();
  const moved = (await demo.page.locator(".frame").boundingBox())!;
  expect([moved.x - zoomed.x, moved.y - zoomed.y]).toEqual([60, -30]);
  expect(await demo.page.locator(".point").count()).toBe(1); // moving is not clicking
  await demo.page.keyboard.press("Alt+ArrowRight");
  expect((await demo.page.locator(".frame").boundingBox())!.x).toBeLessThan(moved.x);
  await demo.page.keyboard.press("n");
  await demo.click(0.42, 0.52);
  await demo.said(/Object 2: the mask covers/);
  const point = await demo.page.locator(".point:not(.quiet)").evaluate(({ style }) => [style.left, style.top]);
  expect(point.map((share) => Math.round(parseFloat(share)))).toEqual([42, 52]);
  await demo.page.keyboard.press("z");
  await demo.page.keyboard.press("z");
  await demo.page.keyboard.press("0");
  expect(await demo.page.locator(".frame").boundingBox()).toEqual(whole);
  await demo.page.keyboard.press("+");
  expect((await demo.page.locator(".frame").boundingBox())!.width).toBeGreaterThan(whole.width);
  await demo.page.keyboard.press("0");
});

test("the brush adds to a mask and removes from it; the result is tracked, and undo restores the mask", async () => {
  const before = (await demo.difference()).share;
  await demo.button("Paint").click();
  await demo.page.getByRole("slider", { name: "Size" }).waitFor();
  await drag([0.7, 0.2], [0.9, 0.2]);
  const painted = (await demo.difference()).share;
  expect(painted - before).toBeGreaterThan(0.005);
  await demo.button(/^Object 1 1 mask/).waitFor();
  await demo.page.keyboard.press("r");
  await drag([0.65, 0.2], [0.8, 0.2]);
  const wiped = (await demo.difference()).share;
  expect(wiped).toBeLessThan(painted);
  expect(wiped).toBeGreaterThan(before);
  await demo.shot("brush");
  await demo.page.keyboard.press("k");
  await demo.said(/finished/);
  await demo.goTo(0);
  expect((await demo.difference()).share).toBeCloseTo(wiped, 3);
  await demo.page.keyboard.press("z");
  await demo.page.keyboard.press("z");
  await demo.settled();
  expect((await demo.difference()).share).toBeCloseTo(before, 3);
  await demo.page.getByRole("application").focus();
  await demo.page.keyboard.press("Shift+ArrowUp");
  await demo.page.keyboard.press("p");
  await demo.page.keyboard.press("Enter"); // paints at the crosshair
  await demo.settled();
  expect((await demo.difference()).share).toBeGreaterThan(before + 0.0005);
  await demo.page.keyboard.press("i");
});

test("classes are kept in the project and are the categories of exports", async () => {
  await demo.page.getByRole("combobox", { name: "Class of Object 1" }).fill("vase");
  await demo.page.keyboard.press("Enter");
  await demo.button(/^Object 1 vase · 1 mask/).waitFor();
  await demo.shot("class");
  await demo.page.keyboard.press("d");
  const waiting = demo.page.waitForEvent("download");
  await demo.page.getByRole("dialog").getByRole("button", { name: "YouTube-VIS" }).click();
  const coco = JSON.parse(readFileSync(await (await waiting).path(), "utf8")) as { categories: { name: string }[] };
  expect(coco.categories.map(({ name }) => name)).toEqual(["vase"]);
  await demo.page.keyboard.press("Escape");
  await demo.page.locator("dialog").waitFor({ state: "detached" });
  await demo.saved();
  await demo.page.reload();
  await demo.button(/^Object 1 vase · 1 mask/).waitFor();
  await demo.page.getByRole("img", { name: /^Confidence/ }).waitFor(); // the scores, too
  expect(demo.problems).toEqual([]);
});

test("on a phone two fingers zoom, and a moving finger aims with the loupe", async () => {
  const phone = await Demo.open(browser, inject("address"), {
    viewport: { width: 390, height: 844 },
    hasTouch: true,
    isMobile: true,
  });
  await phone.ready();
  const session = await phone.page.context().newCDPSession(phone.page);
  const touch = (type: "touchStart" | "touchMove" | "touchEnd", ...touchPoints: { x: number; y: number }[]) =>
    session.send("Input.dispatchTouchEvent", { type, touchPoints });
  const [start, end] = [await phone.at(0.5, 0.8), await phone.at(...VASE)];
  await touch("touchStart", start);
  await touch("touchMove", { x: (start.x + end.x) / 2, y: (start.y + end.y) / 2 });
  await touch("touchMove", end);
  await phone.page.locator(".loupe").waitFor();
  await phone.shot("loupe");
  await touch("touchEnd");
  await phone.said(/Object 1: the mask covers/);
  expect(await phone.page.locator(".loupe").count()).toBe(0);
  const point = await phone.page.locator(".point").evaluate(({ style }) => [style.left, style.top]);
  expect(point.map((share) => Math.round(parseFloat(share)))).toEqual(VASE.map((share) => 100 * share));

  const { width } = (await phone.page.locator(".frame").boundingBox())!;
  await touch("touchStart", { x: end.x - 20, y: end.y }, { x: end.x + 20, y: end.y });
  await touch("touchMove", { x: end.x - 50, y: end.y }, { x: end.x + 50, y: end.y });
  await touch("touchEnd");
  expect((await phone.page.locator(".frame").boundingBox())!.width).toBeCloseTo(2.5 * width, -1);
  expect(await phone.page.locator(".point").count()).toBe(1);
  await phone.shot("pinched");
  expect(await violations(phone.page)).toEqual([]);
  expect(phone.problems).toEqual([]);
  await phone.close();
});

test("a blue mask over a red object is blue", async () => {
  const other = await Demo.open(browser, inject("address"));
  await other.ready();
  const red = await other.page.evaluate(() => {
    const context = document.createElement("canvas").getContext("2d")!;
    context.drawImage(document.querySelector<HTMLVideoElement>(".frame video")!, 0, 0, 48, 32);
    const { data } = context.getImageData(0, 0, 48, 32);
    const redness = (at: number) => data[4 * at]! - data[4 * at + 1]! - data[4 * at + 2]!;
    const best = Array.from({ length: 48 * 32 }, (_, at) => at).reduce((a, b) => (redness(b) > redness(a) ? b : a));
    return [((best % 48) + 0.5) / 48, (Math.floor(best / 48) + 0.5) / 32] as const;
  });
  await other.click(...red);
  await other.page.mouse.move(0, 0);
  const [r, , b] = await other.page.evaluate(([x, y]) => {
    const canvas = document.querySelector<HTMLCanvasElement>(".frame canvas")!;
    const [left, top] = [Math.round(x * canvas.width), Math.round(y * canvas.height)];
    return [...canvas.getContext("2d")!.getImageData(left, top, 1, 1).data];
  }, red);
  await other.shot("blue over red");
  expect(b! - r!).toBeGreaterThan(60);
  await other.close();
});

async function drag(from: readonly [number, number], to: readonly [number, number]): Promise<void> {
  const [start, end] = [await demo.at(...from), await demo.at(...to)];
  await demo.page.mouse.move(start.x, start.y);
  await demo.page.mouse.down();
  await demo.page.mouse.move(end.x, end.y, { steps: 4 });
  await sketch("stroke").waitFor();
  await demo.page.mouse.up();
  await demo.settled();
}

/** The share of a canvas's pixels that are painted; runs in the page. */
function paintedPixels(name: string): number {
  const canvas = document.querySelector<HTMLCanvasElement>(name)!;
  const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
  let painted = 0;
  for (let at = 3; at < data.length; at += 4) if (data[at]! > 0) painted += 1;
  return painted / (data.length / 4);
}
