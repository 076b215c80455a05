import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { violations } from "./accessibility";
import { Demo, launch } from "./demo";
import { makePhotos, shown } from "./photographs";

const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true } as const;

let browser: Browser;
let demo: Demo;

beforeAll(async () => {
  browser = await launch();
  demo = await Demo.open(browser, inject("address"), { ...PHONE, colorScheme: "dark", reducedMotion: "reduce" });
  await demo.ready();
});

afterAll(() => browser.close());

test("a small screen shows one sheet at a time and never scrolls sideways", async () => {
  for (const [tab, landmark] of [
    ["Timeline", "Timeline"],
    ["Effects", "Effects"],
    ["Objects", "Objects"],
  ] as const) {
    // prettier-ignore
    await demo.page.getByRole("navigation").getByRole("button", { name: tab }).tap();
    const sheets = demo.page.locator(".panel:visible, .timeline:visible");
    expect(await sheets.count()).toBe(1);
    expect(await sheets.getAttribute("aria-label")).toBe(landmark);
    await demo.shot(`phone ${tab}`);
  }
  const [content, window] = await demo.page.evaluate(() => [document.body.scrollWidth, innerWidth]);
  expect(content).toBeLessThanOrEqual(window);
  const track = (await demo.button("Track", true).boundingBox())!;
  expect(track.y + track.height).toBeLessThanOrEqual(PHONE.viewport.height);
});

test("nothing overlaps at 400 % zoom: the page scrolls downwards alone", async () => {
  for (const viewport of [
    { width: 320, height: 256 },
    { width: 320, height: 640 },
    { width: 480, height: 320 },
  ]) {
    const other = await Demo.open(browser, inject("address"), { viewport });
    await other.ready();
    for (const tab of ["Timeline", "Effects", "Objects"]) {
      await other.page.getByRole("navigation").getByRole("button", { name: tab }).click();
      expect([viewport, tab, await overlaps(other)]).toEqual([viewport, tab, []]);
    }
    await other.shot(`zoomed ${viewport.width} ${viewport.height}`);
    const [content, window] = await other.page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    expect(content).toBeLessThanOrEqual(window);
    await other.close();
  }
});

/** Pairs of controls and texts that are drawn over each other. */
function overlaps(demo: Demo): Promise<string[]> {
  return demo.page.evaluate(() => {
    const parts = [...document.querySelectorAll("button, select, input:not([type=file]), h1, h2, small, .counter")]
      .filter((part) => part.checkVisibility() && !part.closest(".visually-hidden, .frame"))
      .map((part) => {
        let { left, top, right, bottom } = part.getBoundingClientRect();
        for (let around = part.parentElement; around; around = around.parentElement) {
          if (getComputedStyle(around).overflowY === "visible") continue;
          const clip = around.getBoundingClientRect(); // what is scrolled out of sight does not count
          [left, top] = [Math.max(left, clip.left), Math.max(top, clip.top)];
          [right, bottom] = [Math.min(right, clip.right), Math.min(bottom, clip.bottom)];
        }
        return { part, left, top, right, bottom, name: part.getAttribute("aria-label") ?? part.textContent };
      });
    return parts.flatMap((one, place) =>
      parts.slice(place + 1).flatMap((other) => {
        const isInside = one.part.contains(other.part) || other.part.contains(one.part);
        const width = Math.min(one.right, other.right) - Math.max(one.left, other.left);
        const height = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
        return !isInside && width > 2 && height > 2 ? [`${one.name} and ${other.name}`] : [];
      }),
    );
  });
}

test("a tap includes, a long press excludes", async () => {
  const vase = await demo.at(0.26, 0.62);
  await demo.page.touchscreen.tap(vase.x, vase.y);
  await demo.said(/the mask covers/);
  await demo.settled();
  expect((await demo.difference()).share).toBeGreaterThan(0.01);

  const wall = await demo.at(0.9, 0.2);
  const touch = await demo.page.context().newCDPSession(demo.page);
  await touch.send("Input.dispatchTouchEvent", { type: "touchStart", touchPoints: [wall] });
  await demo.page.locator(".point.negative").waitFor(); // during the long press
  await touch.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
  await demo.settled();
  expect(await demo.page.locator(".point.positive").count()).toBe(1);
  expect(await demo.page.locator(".point.negative").count()).toBe(1);
  await demo.shot("phone clicked");
});

test("fingers can hit everything: 44 pixels, and 24 for marks", async () => {
  const small = await demo.page.evaluate(() =>
    [...document.querySelectorAll(":is(button, select, input:not([type=file]))")].flatMap((element) => {
      const { width, height } = (element.closest("label") ?? element).getBoundingClientRect();
      const least = element.matches(".point, .prompt-mark, .box-mark button") ? 24 : 44;
      const name = `${element.className} ${element.getAttribute("aria-label") ?? element.textContent}`;
      return width > 0 && Math.min(width, height) < least ? [`${name}: ${width}x${height}`] : [];
    }),
  );
  expect(small).toEqual([]);
});

test("dark colours have enough contrast, and the selected theme is kept", async () => {
  expect(await violations(demo.page)).toEqual([]);
  const page = () => demo.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await page();
  await demo.button(/^Colours: system/).click();
  expect(await page()).not.toBe(dark);
  await demo.saved();
  await demo.page.reload();
  await demo.button(/^Colours: light/).waitFor();
  expect(await page()).not.toBe(dark);
  expect(demo.problems).toEqual([]);
});

test("the candidates of a photograph come into view, and then the objects", async () => {
  const other = await Demo.open(browser, inject("address"), PHONE);
  await other.ready();
  await other.button("Videos").tap();
  const folder = makePhotos();
  await other.page.getByLabel("Photographs", { exact: true }).setInputFiles(join(folder, "third.webp"));
  await shown(other, "third.webp");
  rmSync(folder, { recursive: true });
  await other.button("Everything here").tap();
  await other.button("Choose all").tap();
  await other.shot("phone everything");
  await other.button("Add as objects").tap();
  await other.page.locator(".object.active").waitFor();
  expect(other.problems).toEqual([]);
  await other.close();
});

test("everything works by keyboard", async () => {
  await demo.ready();
  await demo.page.getByRole("application").focus();
  for (let step = 0; step < 12; step += 1) await demo.page.keyboard.press("Shift+ArrowLeft");
  for (let step = 0; step < 6; step += 1) await demo.page.keyboard.press("Shift+ArrowDown");
  await demo.page.keyboard.press("Enter");
  await demo.said(/Object 1: the mask covers/);
  await demo.settled();
  await demo.button(/Included point 3 of Object 1/).focus(); // those from before the reload are there
  await demo.page.keyboard.press("Delete");
  await demo.settled();
  expect(await demo.page.locator(".point").count()).toBe(2);
  await demo.page.keyboard.press("?");
  await demo.page.getByRole("dialog", { name: "Help" }).waitFor();
  await demo.shot("phone help");
});
