import type { Browser, Locator, Page } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { violations } from "./accessibility";
import { Demo, launch } from "./demo";

const MANY = 20;
const SIZES = [
  { width: 1440, height: 900, video: 800 },
  { width: 1280, height: 720, video: 600 },
  { width: 390, height: 844, video: 360 },
  { width: 844, height: 390, video: 420 },
] as const;

type Box = NonNullable<Awaited<ReturnType<Locator["boundingBox"]>>>;

let browser: Browser;

beforeAll(async () => {
  browser = await launch();
});

afterAll(() => browser.close());

test.each(SIZES)("$width x $height holds with one object and with twenty", async ({ video, ...viewport }) => {
  const isPhone = Math.min(viewport.width, viewport.height) < 500;
  const colorScheme = viewport.width === 1280 ? "dark" : "light";
  const demo = await Demo.open(browser, inject("address"), {
    viewport,
    colorScheme,
    isMobile: isPhone,
    hasTouch: isPhone,
  });
  await demo.ready();
  const one = await measure(demo.page);
  expect(one.video).toBeGreaterThanOrEqual(video);
  const frame = await demo.page.locator(".frame").boundingBox();
  await demo.click(0.26, 0.62);
  await besideFrame(demo.page, frame!);
  for (let count = 1; count < MANY; count += 1) await demo.page.keyboard.press("n");
  expect(await demo.page.locator(".object").count()).toBe(MANY);

  expect((await measure(demo.page)).video).toBe(one.video);
  await seeAll(demo.page, ["Add an object", "Undo", "Include", /^Track/, "Download"]);
  expect(await covered(demo.page, ".objects :is(.tools, header) button")).toEqual([]);
  expect((await demo.page.locator(".object-list").boundingBox())!.height).toBeGreaterThanOrEqual(90);
  expect(await isInside(demo.page, ".object.active")).toBe(true); // the last one
  await demo.shot(`layout ${viewport.width}`);
  await showSheet(demo.page, "Effects");
  await seeAll(demo.page, ["Surprise me", "Cut-out"]);
  await demo.button("Edges effect").scrollIntoViewIfNeeded();
  expect(await isInside(demo.page, ".effects:last-child button:last-child")).toBe(true);
  await showSheet(demo.page, "Timeline");
  expect(await isInside(demo.page, ".filmstrip")).toBe(true);
  expect(await violations(demo.page)).toEqual([]);
  expect(demo.problems).toEqual([]);
  await demo.close();
});

test("hints come on the first visit, by keyboard and by what the user does, and once", async () => {
  const demo = await Demo.open(browser, inject("address"), {}, 'localStorage.removeItem("sam2fast-coach");');
  await demo.ready();
  const hint = (step: number) => demo.page.getByRole("region", { name: `Hint ${step} of 3` });
  await hint(1).waitFor();
  for (const viewport of [SIZES[0], { width: 1024, height: 768 }, SIZES[2]]) {
    await demo.page.setViewportSize(viewport);
    await expect.poll(() => apart(demo.page, ".coach", ".frame")).toBe(true);
    await demo.shot(`hint ${viewport.width}`);
  }
  await demo.page.setViewportSize({ width: 1280, height: 800 });
  await expect.poll(() => rests(demo.page, ".coach")).toBe(true); // a hint takes the clicks on it
  expect(await apart(demo.page, ".coach", ".frame")).toBe(true);
  expect(await violations(demo.page)).toEqual([]);
  await demo.click(0.26, 0.62);
  await hint(2).waitFor();
  await expect.poll(() => apart(demo.page, ".coach", ".frame, .add-object")).toBe(true);
  await demo.page.setViewportSize({ width: 1024, height: 768 }); // there are tabs, too
  const below = async () =>
    (await demo.page.locator(".coach").boundingBox())!.y - (await demo.page.locator(".add-object").boundingBox())!.y;
  await expect.poll(below).toBeGreaterThan(0);
  await demo.page.setViewportSize({ width: 1280, height: 800 });
  await demo.page.locator(".click-hint", { hasText: "for another object" }).waitFor();
  await demo.page.keyboard.press("Enter"); // Next has the focus
  await hint(3).waitFor();
  await expect.poll(() => apart(demo.page, ".coach", ".frame, .actions")).toBe(true);
  await demo.page.keyboard.press("Escape");
  await hint(3).waitFor({ state: "detached" });
  expect(await demo.page.evaluate(() => localStorage.getItem("sam2fast-coach"))).toBe("seen");
  await demo.close();
});

test("filmstrip and thumbnails show the video, the badge its model and speed", async () => {
  const demo = await Demo.open(browser, inject("address"));
  await demo.ready();
  await demo.button("Videos").click();
  await demo.button("Backwards").click();
  await demo.page.locator(".counter", { hasText: "1 / 12" }).waitFor();
  await demo.ready();
  await demo.click(0.26, 0.62);
  await expect.poll(() => spread(demo.page, ".filmstrip")).toBeGreaterThan(20);
  await expect.poll(() => spread(demo.page, ".thumbnail canvas")).toBeGreaterThan(20);

  let open = (): void => undefined;
  const held = new Promise<void>((resolve) => (open = resolve));
  await demo.page.route(/\/(api\/sessions|graphql)$/, async (route) => {
    if (/startSession|gallery\/01/.test(route.request().postData() ?? "")) await held;
    await route.continue();
  });
  await demo.button("Videos").click();
  await demo.button("Still life").click();
  await demo.page.getByText(/^Opening Still life, \d+ × \d+ …$/).waitFor();
  expect(await spread(demo.page, ".filmstrip")).toBe(-255); // nothing of the video before
  open();
  await demo.page.locator(".counter", { hasText: "1 / 24" }).waitFor();
  await demo.page.unroute(/\/(api\/sessions|graphql)$/);
  await demo.button("Videos").click();
  await demo.button("Backwards").click();
  await demo.page.locator(".counter", { hasText: "1 / 12" }).waitFor();
  await demo.ready();
  await demo.page.keyboard.press("k");
  await demo.said(/Tracking is finished/);
  const badge = demo.page.locator(".model-badge");
  await badge.filter({ hasText: /nano.*CPU.*\d frames\/s/ }).waitFor();
  await badge.click();
  const dialog = demo.page.getByRole("dialog", { name: "Model" });
  await dialog.getByText("one click often takes more than the object").waitFor();
  expect(await violations(demo.page)).toEqual([]);
  expect(await demo.page.locator(".better-model").textContent()).toBe("Better masks: use mini");
  await dialog.getByRole("combobox").selectOption("samurai");
  await demo.page.keyboard.press("Escape");
  await demo.ready();
  await demo.settled();
  await demo.goTo(0); // tracking showed the last frame
  expect(await demo.page.locator(".point").count()).toBe(1);
  await demo.page.keyboard.press("k");
  await demo.said(/Tracking 12 frames/);
  await demo.said(/Tracking is finished/);
  expect(demo.problems).toEqual([]);
  await demo.close();
});

test("downloads are grouped; the last one has the focus, and phones open its group alone", async () => {
  const demo = await Demo.open(browser, inject("address"), { viewport: SIZES[0] });
  await demo.ready();
  await demo.click(0.26, 0.62);
  const open = async () => {
    await demo.button("Download", true).click();
    const groups = await demo.page.locator(".downloads[open] h3").allTextContents();
    await expect.poll(() => rests(demo.page, "dialog")).toBe(true);
    await demo.shot(`downloads ${demo.page.viewportSize()!.width}`);
    expect(await violations(demo.page)).toEqual([]);
    return groups;
  };
  const close = () => demo.page.keyboard.press("Escape");
  expect(await open()).toEqual(["For editing", "For training", "To continue"]);
  const waiting = demo.page.waitForEvent("download");
  await demo.button("YouTube-VIS").click();
  await waiting;
  await close();
  for (const viewport of [SIZES[2], { width: 360, height: 225 }]) {
    await demo.page.setViewportSize(viewport);
    expect(await open()).toEqual(["For training"]);
    expect(await demo.page.evaluate(() => document.activeElement?.textContent)).toBe("YouTube-VIS");
    await close();
  }
  await demo.page.setViewportSize(SIZES[0]);
  let send = (): void => undefined;
  const held = new Promise<void>((resolve) => (send = resolve));
  await demo.page.route(/\/export\?/, (route) => held.then(() => route.continue()));
  await open();
  await demo.button("COCO", true).click();
  await demo.page.getByText(/You can close this/).waitFor();
  await close();
  const later = demo.page.waitForEvent("download");
  await demo.click(0.6, 0.8); // meanwhile
  send();
  expect((await later).suggestedFilename()).toMatch(/_coco.zip$/);
  expect(demo.problems).toEqual([]);
  await demo.close();
});

test("each effect is shown on the current frame; the text's words are the user's; both and undo survive a reload", async () => {
  const demo = await Demo.open(browser, inject("address"));
  await demo.ready();
  const preview = (group: string, name: string) =>
    demo.page
      .getByRole("group", { name: group, exact: true })
      .getByRole("button", { name: new RegExp(`^${name} effect`) })
      .locator("canvas");
  const pixels = (canvas: Locator) => canvas.evaluate((canvas: HTMLCanvasElement) => canvas.toDataURL());
  await preview("Objects", "Emoji").and(demo.page.locator("[data-drawn=true]")).waitFor();
  const all = await Promise.all((await demo.page.locator(".effects canvas").all()).map(pixels));
  expect(all.length).toBe(29);
  expect(new Set(all).size).toBeGreaterThan(20); // some effects are among the ready-made ones, too
  const before = await pixels(preview("Objects", "Overlay"));
  await demo.click(0.26, 0.62);
  await expect.poll(() => pixels(preview("Objects", "Overlay"))).not.toBe(before);

  await demo.effect("Background", "Text", 2);
  const own = await pixels(preview("Background", "Text"));
  await demo.page.getByRole("textbox", { name: "Words" }).fill("kitchen");
  await expect.poll(() => pixels(preview("Background", "Text"))).not.toBe(own);
  await demo.shot("words");
  expect(await violations(demo.page)).toEqual([]);
  await demo.saved();
  await demo.page.reload();
  await demo.ready();
  expect(await demo.page.getByRole("textbox", { name: "Words" }).inputValue()).toBe("kitchen");

  // Undo survives the reload, too.
  expect(await demo.page.locator(".point").count()).toBe(1);
  await demo.page.keyboard.press("z");
  await demo.settled();
  expect(await demo.page.locator(".point").count()).toBe(0);
  await demo.page.keyboard.press("Shift+Z");
  await demo.settled();
  expect(await demo.page.locator(".point").count()).toBe(1);
  expect(demo.problems).toEqual([]);
  await demo.close();
});

/** Checks that the masks for a click are seen beside the frame, which has stayed in its place, and have their scores. */
async function besideFrame(page: Page, before: Box): Promise<void> {
  const strip = page.getByRole("group", { name: "Masks for this click" });
  await strip.waitFor();
  const frame = (await page.locator(".frame").boundingBox())!;
  const box = (await strip.boundingBox())!;
  expect(frame).toEqual(before);
  const isApart = box.y >= frame.y + frame.height || box.x >= frame.x + frame.width || box.y + box.height <= frame.y;
  expect(isApart, JSON.stringify([frame, box])).toBe(true);
  expect(await covered(page, ".candidates button, .transport button:not(:disabled)")).toEqual([]);
  expect(await strip.getByRole("button").allTextContents()).toEqual(Array(3).fill(expect.stringMatching(/^\d+ %$/)));
}

/** The video's width, after a check that nothing is wider or higher than the window. */
async function measure(page: Page): Promise<{ video: number }> {
  const { width, height, video } = await page.evaluate(() => ({
    width: document.documentElement.scrollWidth - innerWidth,
    height: document.documentElement.scrollHeight - innerHeight,
    video: document.querySelector(".frame")!.getBoundingClientRect().width,
  }));
  expect([width, height]).toEqual([0, 0]);
  return { video };
}

async function showSheet(page: Page, name: string): Promise<void> {
  const tab = page.getByRole("navigation").getByRole("button", { name });
  if (await tab.isVisible()) await tab.click();
}

async function seeAll(page: Page, names: readonly (string | RegExp)[]): Promise<void> {
  for (const name of names) {
    const box = (await page.getByRole("button", { name }).first().boundingBox())!;
    const { width, height } = page.viewportSize()!;
    expect([box.x >= 0, box.y >= 0, box.x + box.width <= width, box.y + box.height <= height], `${name}`).toEqual(
      Array(4).fill(true),
    );
  }
}

/** Whether the middle of an element is seen and not covered. */
function isInside(page: Page, selector: string): Promise<boolean> {
  return page.evaluate((selector) => {
    const element = document.querySelector(selector)!;
    const { left, top, width, height } = element.getBoundingClientRect();
    const seen = document.elementFromPoint(left + width / 2, top + height / 2);
    return seen !== null && (element.contains(seen) || seen.closest(".timeline, .lanes") !== null);
  }, selector);
}

/** Whether an element stays in its place for a moment: it follows a change of the window's size later. */
async function rests(page: Page, selector: string): Promise<boolean> {
  const before = await page.locator(selector).boundingBox();
  await page.waitForTimeout(800);
  return JSON.stringify(before) === JSON.stringify(await page.locator(selector).boundingBox());
}

/** Whether an element is beside all elements of a selector that are seen. */
function apart(page: Page, selector: string, others: string): Promise<boolean> {
  return page.evaluate(
    ([selector, others]) => {
      const a = document.querySelector(selector!)!.getBoundingClientRect();
      return [...document.querySelectorAll(others!)].every((other) => {
        const b = other.getBoundingClientRect();
        return a.left >= b.right || a.right <= b.left || a.top >= b.bottom || a.bottom <= b.top;
      });
    },
    [selector, others],
  );
}

/** The names of buttons whose middle is not seen. */
function covered(page: Page, selector: string): Promise<string[]> {
  return page.evaluate((selector) => {
    const isSeen = (element: Element) => {
      const { left, top, width, height } = element.getBoundingClientRect();
      return element.contains(document.elementFromPoint(left + width / 2, top + height / 2));
    };
    const buttons = [...document.querySelectorAll(selector)].filter(
      (button) => button.getClientRects().length > 0 && !isSeen(button),
    );
    return buttons.map((button) => button.getAttribute("aria-label") ?? button.textContent);
  }, selector);
}

/** The largest difference of brightness in a canvas. */
function spread(page: Page, selector: string): Promise<number> {
  return page.evaluate((selector) => {
    const canvas = document.querySelector<HTMLCanvasElement>(selector)!;
    const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
    let [low, high] = [255, 0];
    for (let at = 1; at < data.length; at += 4) {
      if (data[at + 2] === 0) continue; // not drawn
      low = Math.min(low, data[at]!);
      high = Math.max(high, data[at]!);
    }
    return high - low;
  }, selector);
}
