import { readFileSync } from "node:fs";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { violations } from "./accessibility";
import { Demo, launch } from "./demo";

const VASE = [0.26, 0.62] as const;

let browser: Browser;
let demo: Demo;
let file: Buffer;

beforeAll(async () => {
  browser = await launch();
  demo = await Demo.open(browser, inject("address"), { colorScheme: "dark" });
  await demo.ready();
  await demo.button("Videos").click();
  await demo.button("Backwards").click();
  await demo.page.locator(".counter", { hasText: "1 / 12" }).waitFor();
  await demo.ready();
});

afterAll(() => browser.close());

const lane = () => demo.page.getByRole("group", { name: /^Object 1:/ }).getAttribute("aria-label");

const hint = () => demo.page.locator(".actions .hint").textContent();

async function track(extent: string): Promise<void> {
  await demo.page.getByRole("combobox", { name: "Part to track" }).selectOption(extent);
  await demo.button(/^Track( again)?$/).click(); // and the keys are the page's again
  await demo.said(/finished/);
}

test("tracks from this frame forwards, backwards, and a range", async () => {
  await demo.goTo(5);
  await demo.click(...VASE);
  await track("forward");
  expect(await lane()).toBe("Object 1: seen on frames 6 to 12");
  expect(await hint()).toMatch(/A part is tracked/);
  await demo.goTo(5);
  await track("backward");
  expect(await lane()).toBe("Object 1: seen on frames 1 to 12");
  expect(await hint()).toMatch(/Where a mask is wrong/); // all is tracked
  await demo.goTo(8);
  await demo.click(0.3, 0.7);
  expect(await lane()).toMatch(
    /seen on frames 6 to 6, 9 to 9; tracked before the last change on frames 1 to 5, 7 to 8/,
  );
  await demo.page.keyboard.press("[");
  await demo.goTo(10);
  await demo.page.keyboard.press("]");
  await demo.page.getByRole("spinbutton", { name: "from" }).waitFor();
  expect(await demo.page.getByRole("spinbutton", { name: "to" }).inputValue()).toBe("11");
  await demo.shot("range");
  await track("range");
  expect(await lane()).toMatch(/seen on frames 6 to 6, 9 to 11; tracked before/);
  expect(await hint()).toMatch(/The clicks have changed/);
  await demo.page.keyboard.press("d");
  await demo.page.getByText("Hatched frames have masks from before the last change").waitFor();
  await demo.button("Close").click();
});

test("only changed objects are tracked", async () => {
  await demo.page.getByRole("checkbox", { name: "Only changed objects" }).check();
  await track("all");
  expect(await lane()).toBe("Object 1: seen on frames 1 to 12");
  await demo.page.keyboard.press("k");
  await demo.page.locator(".banner", { hasText: "Nothing has changed there" }).waitFor();
});

test("a click during tracking waits until it ends; an edit that removes something cancels it", async () => {
  await demo.page.getByRole("checkbox", { name: "Only changed objects" }).uncheck();
  await demo.goTo(0);
  await demo.page.keyboard.press("k");
  await demo.page.locator(".progress").waitFor();
  await demo.click(0.28, 0.66);
  await demo.page.getByText("Your clicks are kept").waitFor();
  await demo.shot("waiting click");
  await demo.page.locator(".progress").waitFor({ state: "detached" });
  await demo.settled();
  await demo.page.getByText("The clicks have changed").waitFor();
  await demo.page.getByText(/^12 frames: about \d+ s$/).waitFor();
  await demo.goTo(0);
  await demo.page.keyboard.press("k");
  await demo.page.locator(".progress").waitFor();
  await demo.button("Delete Object 1").click();
  await demo.page.locator(".banner", { hasText: "Tracking is cancelled by your change" }).waitFor();
  await demo.shot("cancelled by an edit");
  await demo.page.keyboard.press("z");
  await demo.settled();
  await demo.page.keyboard.press("z");
  await demo.settled();
});

test.each(["light", "dark"] as const)(
  "the page and its dialogs have no accessibility violations in %s colours",
  async (colorScheme) => {
    await demo.page.emulateMedia({ colorScheme });
    for (const [button, title] of [
      ["Help", "Help"],
      ["Videos", "Videos"],
      ["Download", "Download"],
      ["Start over", "Start over?"],
    ] as const) {
      await demo.button(button).click();
      await demo.page.getByRole("dialog", { name: title }).waitFor();
      await demo.shot(`${colorScheme} ${title}`);
      expect(await violations(demo.page), title).toEqual([]);
      await demo.button("Close").click();
      await demo.page.locator("dialog").waitFor({ state: "detached" });
      await expect.poll(() => demo.button(button).evaluate((element) => element.matches(":focus"))).toBe(true);
    }
    expect(await violations(demo.page)).toEqual([]);
  },
);

test("starting over asks, and undo restores the very masks", async () => {
  await track("all");
  await demo.goTo(11);
  const before = await demo.difference();
  await demo.button("Start over").click();
  const question = demo.page.getByRole("dialog", { name: "Start over?" });
  await question.waitFor();
  await demo.shot("start over");
  await question.getByRole("button", { name: "Keep them" }).click();
  expect((await demo.difference()).share).toBe(before.share);
  await demo.button("Start over").click();
  await question.getByRole("button", { name: "Start over" }).click();
  await demo.settled();
  expect((await demo.difference()).share).toBe(0);
  await demo.page.keyboard.press("z");
  await demo.settled();
  expect(await demo.difference()).toEqual(before);
});

test("a reload restores video, clicks, masks and look", async () => {
  await demo.button("Colour pop").click();
  const before = await demo.difference();
  const spans = await lane();
  await demo.saved();
  await demo.page.reload();
  await demo.page.locator('.frame canvas[data-frame="11"]').waitFor();
  await demo.settled();
  await demo.shot("reloaded");
  expect(await lane()).toBe(spans);
  expect(await demo.difference()).toEqual(before);
  expect(await demo.button("Colour pop").getAttribute("aria-pressed")).toBe("true");
});

test("a click after a reload corrects the tracked mask, which the server gets first", async () => {
  const sent: string[] = [];
  demo.page.on("request", (request) => {
    const text = request.postData() ?? "";
    if (text.includes("addPoints")) sent.push("clicks");
    else if (request.url().endsWith("/masks")) sent.push(/"frameIndex":\d+/.exec(text)?.[0] ?? "");
  });
  const before = await demo.difference();
  await demo.goTo(9);
  await demo.click(...VASE);
  expect(sent.slice(-2)).toEqual(['"frameIndex":9', "clicks"]);
  await demo.button("Undo").click();
  await demo.settled();
  await demo.goTo(11);
  expect(await demo.difference()).toEqual(before);
});

test("a second tab on the video says that it saves nothing", async () => {
  const spans = await lane();
  const other = await demo.page.context().newPage();
  await other.goto(inject("address"));
  await other.getByRole("alert").filter({ hasText: "open in another tab" }).waitFor();
  await other.getByRole("button", { name: "Delete Object 1" }).click();
  await demo.saved();
  await other.close();
  await demo.page.reload();
  await demo.page.locator('.frame canvas[data-frame="11"]').waitFor();
  await demo.settled();
  expect(await lane()).toBe(spans);
  expect(await demo.page.getByRole("alert").count()).toBe(0);
});

test("the browser asks before work is lost that is not saved yet", async () => {
  const asked = new Promise<string>((resolve) => {
    demo.page.once("dialog", (dialog) => {
      resolve(dialog.type());
      void dialog.accept();
    });
  });
  const place = await demo.at(0.27, 0.66);
  await demo.page.mouse.click(place.x, place.y);
  await demo.page.reload();
  expect(await asked).toBe("beforeunload");
  await demo.page.locator('.frame canvas[data-frame="11"]').waitFor();
  await demo.settled();
});

test("a project file opens in another browser", async () => {
  const before = await demo.difference();
  await demo.page.keyboard.press("d");
  const waiting = demo.page.waitForEvent("download");
  await demo.page.getByRole("dialog").getByRole("button", { name: "Project" }).click();
  const download = await waiting;
  expect(download.suggestedFilename()).toBe("Backwards.sam2fast.json");
  file = readFileSync(await download.path());
  await demo.button("Close").click();
  const other = await Demo.open(browser, inject("address"));
  await other.ready();
  await other.button("Videos").click();
  await other.page
    .getByLabel("Project file")
    .setInputFiles({ name: "a.json", mimeType: "application/json", buffer: file });
  await other.page.locator('.frame canvas[data-frame="11"]').waitFor();
  await other.settled();
  expect(await other.difference()).toEqual(before);
  await other.page
    .getByLabel("Masks file")
    .setInputFiles({ name: "bad.json", mimeType: "", buffer: Buffer.from("{}") });
  await other.page.getByRole("alert").filter({ hasText: "cannot be read as masks" }).waitFor();
  expect(other.problems).toEqual([]);
  await other.close();
});

test.each(["light", "dark"] as const)(
  "a project asks before it replaces other work, in %s colours",
  async (colorScheme) => {
    await demo.page.emulateMedia({ colorScheme });
    const spans = await lane();
    await demo.button("Start over").click();
    await demo.page.getByRole("dialog").getByRole("button", { name: "Start over" }).click();
    await demo.click(0.64, 0.7);
    const other = await lane();
    const question = demo.page.getByRole("dialog", { name: "Replace your work?" });
    for (const answer of ["Keep it", "Replace"]) {
      await demo.button("Videos").click();
      await demo.page.getByLabel("Project file").setInputFiles({ name: "a.json", mimeType: "", buffer: file });
      await question.waitFor();
      await demo.shot(`${colorScheme} replace`);
      expect(await violations(demo.page)).toEqual([]);
      expect(await lane()).toBe(other);
      await question.getByRole("button", { name: answer }).click();
      await demo.page.locator("dialog").waitFor({ state: "detached" });
    }
    await expect.poll(lane).toBe(spans);
    await demo.settled();
  },
);

test("masks that were downloaded come back as objects that can be tracked", async () => {
  await demo.button("Overlay", true).click();
  await demo.page.getByRole("combobox", { name: "Class of Object 1" }).fill("vase");
  await demo.page.keyboard.press("Enter");
  const before = await demo.difference();
  await demo.page.keyboard.press("d");
  const waiting = demo.page.waitForEvent("download");
  await demo.page.getByRole("dialog").getByRole("button", { name: "YouTube-VIS" }).click();
  const coco = readFileSync(await (await waiting).path());
  await demo.page.keyboard.press("Escape");
  await demo.button("Start over").click();
  await demo.page.getByRole("dialog").getByRole("button", { name: "Start over" }).click();
  await demo.page.getByLabel("Masks file").setInputFiles({ name: "coco.json", mimeType: "", buffer: coco });
  await demo.page.locator(".banner", { hasText: "1 object imported" }).waitFor();
  await demo.settled();
  await demo.button("Object 1 vase · 1 mask").waitFor();
  expect((await demo.difference()).share).toBeCloseTo(before.share, 3);
  await demo.shot("imported");
  await track("all");
  expect(await lane()).toBe("Object 1: seen on frames 1 to 12");
  expect(demo.problems).toEqual([]);
});
