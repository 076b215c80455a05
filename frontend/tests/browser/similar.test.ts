import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { violations } from "./accessibility";
import { Demo, launch } from "./demo";
import { makePhotos, shown, VASE } from "./photographs";

let folder: string;
let browser: Browser;
let demo: Demo;

beforeAll(async () => {
  folder = makePhotos();
  browser = await launch();
  demo = await Demo.open(browser, inject("address"));
  await demo.ready();
  await demo.button("Videos").click();
  const names = ["first.jpg", "old.bmp", "second.png", "third.webp"];
  await demo.page.getByLabel("Photographs", { exact: true }).setInputFiles(names.map((name) => join(folder, name)));
  await shown(demo, "first.jpg");
});

afterAll(async () => {
  await browser.close();
  rmSync(folder, { recursive: true });
});

const candidates = () => demo.page.getByRole("region", { name: "Candidates" });
const start = () => demo.button("Same object in the next photographs");

test("what looks like the object is offered in the next photograph, and nothing is accepted by itself", async () => {
  expect(await start().isDisabled()).toBe(true); // there is no mask yet
  await demo.click(...VASE);
  await demo.said(/Object 1: the mask covers/);
  await demo.page.keyboard.press("l");
  await demo.page.keyboard.type("vase");
  await demo.page.keyboard.press("Enter");
  await start().click();
  await shown(demo, "old.bmp");
  await candidates().getByText("Looks like “vase”. It need not be the same one.").waitFor();
  const likeness = await candidates()
    .getByRole("button", { name: /^Candidate 1 \d+ % alike/ })
    .innerText();
  expect(Number(/(\d+) % alike/.exec(likeness)![1])).toBeGreaterThan(50);
  expect(await candidates().getByRole("button", { pressed: true }).count()).toBe(0);
  expect(await demo.page.locator(".object .label-field").inputValue()).toBe("");
  expect(await violations(demo.page)).toEqual([]);
  await demo.shot("similar");
});

test("by mouse: a candidate is accepted with the class, and the next photograph follows", async () => {
  await candidates()
    .getByRole("button", { name: /^Candidate 1 / })
    .click();
  await candidates().getByRole("button", { name: "Add 1 and next" }).click();
  await shown(demo, "second.png");
  await demo.button("old.bmp 1 object").waitFor();
});

test("by keys: refused, then accepted; the last photograph ends it", async () => {
  await candidates().waitFor();
  await demo.page.keyboard.press("f");
  await shown(demo, "third.webp");
  await demo.button("second.png untouched").waitFor();
  await candidates().waitFor();
  await demo.page.keyboard.press("1");
  await candidates()
    .getByText(/^1 of \d chosen/)
    .waitFor();
  await demo.page.keyboard.press("f");
  await demo.said(/This is the last photograph/);
  await candidates().waitFor({ state: "detached" });
  expect(await demo.page.locator(".object .label-field").inputValue()).toBe("vase");
  expect(await start().getAttribute("aria-pressed")).toBe("false");
  await demo.button("old.bmp 1 object").click();
  await shown(demo, "old.bmp");
  expect(await demo.page.locator(".object .label-field").inputValue()).toBe("vase");
  expect(await violations(demo.page)).toEqual([]);
  expect(demo.problems).toEqual([]);
});

test("it can be stopped", async () => {
  await start().click();
  await shown(demo, "second.png");
  await candidates().waitFor();
  await start().click();
  await candidates().waitFor({ state: "detached" });
  await demo.page.keyboard.press("PageDown");
  await shown(demo, "third.webp");
  await demo.settled();
  expect(await candidates().count()).toBe(0);
  expect(demo.problems).toEqual([]);
});
