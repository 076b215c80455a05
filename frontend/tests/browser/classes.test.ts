import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { unzipSync } from "fflate";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { violations } from "./accessibility";
import { Demo, launch } from "./demo";
import { APPLE, makePhotos, shown, VASE } from "./photographs";

let folder: string;
let browser: Browser;
let demo: Demo;

beforeAll(async () => {
  folder = makePhotos();
  browser = await launch();
  demo = await Demo.open(browser, inject("address"));
  await demo.ready();
});

afterAll(async () => {
  await browser.close();
  rmSync(folder, { recursive: true });
});

const files = (...names: string[]) => names.map((name) => join(folder, name));
const list = () => demo.page.getByRole("group", { name: /^Classes for/ }).getByRole("button");
const dialog = () => demo.page.getByRole("dialog", { name: "Classes" });
const summary = (name: string) => demo.page.locator(".object-name", { hasText: name }).locator("small");

async function close(): Promise<void> {
  await demo.page.keyboard.press("Escape");
  await demo.page.locator("dialog").waitFor({ state: "detached" });
}

/** Presses a key as a keyboard with another layout does. */
function pressCode(code: string, key: string, shiftKey: boolean): Promise<boolean> {
  return demo.page.evaluate(
    (options) => document.body.dispatchEvent(new KeyboardEvent("keydown", { ...options, bubbles: true })),
    { code, key, shiftKey },
  );
}

async function download(name: string, options: Record<string, string> = {}): Promise<Buffer> {
  await demo.button("Download", true).click();
  for (const [label, value] of Object.entries(options)) await demo.page.getByLabel(label, { exact: true }).fill(value);
  const waiting = demo.page.waitForEvent("download");
  await demo.page.getByRole("dialog").getByRole("button", { name, exact: true }).click();
  const content = readFileSync(await (await waiting).path());
  await close();
  return content;
}

test("classes are added, coloured, ordered, renamed and removed in the page", async () => {
  await demo.button("Videos").click();
  await demo.page
    .getByLabel("Photographs", { exact: true })
    .setInputFiles(files("first.jpg", "second.png", "third.webp"));
  await shown(demo, "first.jpg");
  await demo.click(...VASE);
  await demo.page.keyboard.press("Shift+Digit1");
  await demo.said(/There is no class 1 yet/);
  await demo.button("Edit the classes").click();
  for (const name of ["vase", "apple", "wall"]) {
    await dialog().getByLabel("New class").fill(name);
    await demo.page.keyboard.press("Enter");
    await dialog().getByLabel(`Name of ${name}`).waitFor();
  }
  await dialog().getByLabel("New class").fill("apple");
  await demo.page.keyboard.press("Enter");
  await dialog().getByRole("alert").filter({ hasText: "There is a class “apple” already." }).waitFor();
  expect(await violations(demo.page)).toEqual([]);
  await demo.shot("classes dialog");
  await dialog().getByRole("button", { name: "Move wall up" }).press("Enter");
  await demo.page.keyboard.press("Enter"); // the focus follows it
  expect(
    await dialog()
      .getByLabel(/^Name of/)
      .evaluateAll((all) => all.map((one) => (one as HTMLInputElement).value)),
  ).toEqual([...["wall", "vase", "apple"]]);
  await dialog().getByLabel("Name of wall").fill("tray");
  await demo.page.keyboard.press("Tab");
  await dialog().getByLabel("Name of tray").waitFor();
  expect(await demo.page.evaluate(() => document.activeElement?.getAttribute("aria-label"))).toBe("Move tray down");
  await dialog().getByLabel("Colour of vase").fill("#ff00ff");
  await dialog().getByRole("button", { name: "Remove tray" }).click(); // nothing has it
  await dialog().getByLabel("Name of tray").waitFor({ state: "detached" });
  await close();
  expect(await list().allInnerTexts()).toEqual(["vase\n1", "apple\n2"]);
  expect(await demo.page.evaluate(() => localStorage.getItem("sam2fast-classes"))).toContain('"#ff00ff"');
});

test("Shift and a digit give the selected object a class, a digit selects an object, on every layout", async () => {
  await demo.page.keyboard.press("Shift+Digit1");
  await demo.said(/^Object 1: vase/);
  await summary("Object 1")
    .filter({ hasText: /^vase · 1 point/ })
    .waitFor();
  expect(await demo.page.locator(".object.active").getAttribute("style")).toContain("#ff00ff");
  await demo.page.keyboard.press("n");
  await demo.click(...APPLE);
  await pressCode("Digit2", "2", true); // AZERTY: the digit is shifted
  await summary("Object 2")
    .filter({ hasText: /^apple/ })
    .waitFor();
  await pressCode("Digit1", "&", false);
  await demo.page.locator(".object.active", { hasText: "Object 1" }).waitFor();
  await pressCode("Numpad2", "2", false);
  await demo.page.locator(".object.active", { hasText: "Object 2" }).waitFor();
  await list().first().click();
  await summary("Object 2").filter({ hasText: /^vase/ }).waitFor();
  await demo.page.keyboard.press("z");
  await summary("Object 2")
    .filter({ hasText: /^apple/ })
    .waitFor();
  expect(await violations(demo.page)).toEqual([]);
  await demo.shot("classes of objects");
});

test("a photograph whose mask is edited after its export keeps its class, also when it is opened again", async () => {
  await download("COCO");
  await demo.page.keyboard.press("PageDown");
  await shown(demo, "second.png");
  await demo.click(...VASE);
  await demo.page.keyboard.press("Shift+Digit1");
  await demo.page.keyboard.press("PageUp");
  await shown(demo, "first.jpg");
  await demo.click(0.9, 0.1, "right");
  await demo.page.keyboard.press("1");
  await demo.click(0.24, 0.6);
  const entries = unzipSync(await download("COCO"));
  const coco = JSON.parse(Buffer.from(entries["masks.json"]!).toString()) as {
    categories: { name: string }[];
    annotations: { image_id: number; category_id: number }[];
  };
  expect(coco.categories).toEqual([
    { id: 1, name: "vase" },
    { id: 2, name: "apple" },
  ]);
  expect(coco.annotations.map(({ image_id, category_id }) => [image_id, category_id])).toEqual([
    [1, 1],
    [1, 2],
    [2, 1],
  ]);
});

test("a renamed class is renamed on photographs that are not open, and a used one is removed after a question", async () => {
  await demo.saved();
  await demo.button("Edit the classes").click();
  await dialog().getByLabel("Name of vase").fill("jug");
  await demo.page.keyboard.press("Enter");
  await close();
  await summary("Object 1").filter({ hasText: /^jug/ }).waitFor();
  await demo.page.keyboard.press("PageDown");
  await shown(demo, "second.png");
  await summary("Object 1").filter({ hasText: /^jug/ }).waitFor();
  await demo.saved();
  await demo.button("Edit the classes").click();
  await dialog().getByRole("button", { name: "Remove apple" }).click();
  const question = demo.page.getByRole("dialog", { name: "Remove “apple”?" });
  await question.getByText(/^1 object in this browser/).waitFor();
  await question.getByRole("button", { name: "Keep it" }).click();
  await dialog().getByRole("button", { name: "Remove apple" }).waitFor(); // the classes are shown again
  await close();
  await demo.page.locator("dialog").waitFor({ state: "detached" });
});

test("YOLO and COCO are split into parts that have no photograph in common", async () => {
  await demo.page.keyboard.press("PageDown");
  await shown(demo, "third.webp");
  await demo.click(...VASE);
  await demo.button("Download", true).click();
  await demo.page.getByLabel("Validation (%)", { exact: true }).fill("34");
  expect(await violations(demo.page)).toEqual([]);
  await demo.shot("split");
  await close();
  const split = { "Validation (%)": "34", Seed: "1" };
  const yolo = unzipSync(await download("YOLO", split));
  const images = (part: string) =>
    Object.keys(yolo).flatMap((name) => (name.startsWith(`${part}/images/`) ? [name.slice(-12)] : []));
  expect([images("train").length, images("val").length]).toEqual([2, 1]);
  expect(images("train")).not.toContain(images("val")[0]);
  expect(Buffer.from(yolo["data.yaml"]!).toString()).toBe(
    'train: train/images\nval: val/images\nnames:\n  0: "jug"\n  1: "apple"\n  2: "object"\n',
  );
  const again = unzipSync(await download("YOLO", split));
  expect(again).toEqual(yolo);
  const coco = Object.keys(unzipSync(await download("COCO", split)));
  expect(coco.sort()).toEqual(["train/masks.json", "val/masks.json"]);
});

test("the list is there after a reload; a project brings its own, also one of 0.2 by its objects", async () => {
  await demo.saved();
  const saved = await download("Project");
  await demo.page.reload();
  await shown(demo, "third.webp");
  expect(await list().allInnerTexts()).toEqual(["jug\n1", "apple\n2"]);
  const { classes: _, ...old } = JSON.parse(saved.toString()) as { classes: unknown };
  for (const project of [saved, Buffer.from(JSON.stringify(old))]) {
    const other = await Demo.open(browser, inject("address"));
    await other.ready();
    await other.button("Videos").click();
    await other.page
      .getByLabel("Project file")
      .setInputFiles({ name: "p.json", mimeType: "application/json", buffer: project });
    await shown(other, "first.jpg");
    const names = other.page.getByRole("group", { name: /^Classes for/ }).getByRole("button");
    await names.nth(1).waitFor();
    expect(await names.allInnerTexts()).toEqual(["jug\n1", "apple\n2"]);
    expect(other.problems).toEqual([]);
    await other.close();
  }
  expect(demo.problems).toEqual([]);
});

test.each([
  { width: 1440, height: 900 },
  { width: 1024, height: 768 },
  { width: 390, height: 844 },
  { width: 360, height: 225 },
])("many classes fit $width x $height", async (viewport) => {
  const many = Array.from({ length: 14 }, (_, place) => ({
    name: place === 4 ? "a class with a name that is much longer than others" : `class ${place + 1}`,
    colour: `#${((place * 1_118_481 + 4_000_000) % 0xffffff).toString(16).padStart(6, "0")}`,
  }));
  const isPhone = viewport.width === 390;
  const script = `localStorage.setItem("sam2fast-classes", ${JSON.stringify(JSON.stringify(many))});`;
  const other = await Demo.open(browser, inject("address"), { viewport, isMobile: isPhone, hasTouch: isPhone }, script);
  await other.ready();
  await other.button("Edit the classes").scrollIntoViewIfNeeded();
  expect(await other.page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBeLessThanOrEqual(0);
  const names = other.page.getByRole("group", { name: "Classes for Object 1" }).getByRole("button");
  expect(await names.count()).toBe(many.length);
  await names.nth(3).click();
  await names.nth(4).scrollIntoViewIfNeeded();
  expect(await violations(other.page)).toEqual([]);
  await other.shot(`classes ${viewport.width}`);
  await other.button("Edit the classes").click();
  await other.page.getByRole("dialog", { name: "Classes" }).waitFor();
  const wide = await other.page.locator("dialog").evaluate((one) => one.scrollWidth - one.clientWidth);
  expect(wide).toBeLessThanOrEqual(0);
  expect(await violations(other.page)).toEqual([]);
  await other.shot(`classes dialog ${viewport.width}`);
  if (isPhone) {
    const small = await other.page
      .locator("dialog :is(button, input)")
      .evaluateAll((all) =>
        all.map((one) => one.getBoundingClientRect()).filter(({ width, height }) => Math.min(width, height) < 44),
      );
    expect(small).toEqual([]);
  }
  expect(other.problems).toEqual([]);
  await other.close();
});
