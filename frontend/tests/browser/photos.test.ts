import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { violations } from "./accessibility";
import { Demo, launch } from "./demo";
import { APPLE, checkTransparent, makePhotos, readExports, shown, VASE } from "./photographs";

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
const opened = (name: string) => shown(demo, name);
const photo = (name: string) => demo.page.getByRole("region", { name: "Photographs" }).getByRole("button", { name });

test("a photograph is opened, and a click finds an object in its full size", async () => {
  await demo.button("Videos").click();
  await demo.page.getByLabel("Photographs", { exact: true }).setInputFiles(files("first.jpg"));
  await opened("first.jpg");
  await demo.page.locator(".counter", { hasText: "1600 × 1200" }).waitFor();
  await demo.click(...VASE);
  await demo.said(/Object 1: the mask covers .* of the image/);
  expect(await demo.page.locator(".point").count()).toBe(1);
  expect(await demo.page.getByRole("group", { name: "Objects", exact: true }).isVisible()).toBe(false); // its effects
  await demo.shot("photograph");
  await demo.button("Show effects").click();
  await demo.effect("Objects", "Outline");
  await demo.effect("Objects", "Overlay");
  await demo.button("Hide effects").click();
  const text = await demo.page.locator("body").innerText();
  expect(text).not.toMatch(/track|\bframes?\b|play/i);
  expect(await demo.page.locator(".object .thumbnail canvas").count()).toBe(1);
});

test("undo comes back with the photograph", async () => {
  const other = await Demo.open(browser, inject("address"));
  await other.ready();
  await other.button("Videos").click();
  await other.page.getByLabel("Photographs", { exact: true }).setInputFiles(files("first.jpg", "second.png"));
  await shown(other, "first.jpg");
  await other.click(...VASE);
  await other.click(...APPLE);
  await other.page.keyboard.press("PageDown");
  await shown(other, "second.png");
  expect(await other.page.getByRole("button", { name: /^Undo/ }).isDisabled()).toBe(true);
  await other.page.keyboard.press("PageUp");
  await shown(other, "first.jpg");
  expect(await other.page.locator(".point").count()).toBe(2);
  await other.page.keyboard.press("z");
  await other.settled();
  expect(await other.page.locator(".point").count()).toBe(1);
  expect(other.problems).toEqual([]);
  await other.close();
});

test("files that are left out are named with the reason, and others open, also AVIF and TIFF", async () => {
  const other = await Demo.open(browser, inject("address"));
  await other.ready();
  await other.button("Videos").click();
  const bad = ["drawing.svg", "phone.heic", "empty.jpg", "clip.mp4", "notes"].map((name) => {
    return { name, mimeType: "", buffer: Buffer.from(name === "empty.jpg" ? "" : "nothing") };
  });
  const good = ["first.jpg", "scan.tif", "web.avif"].map((name) => {
    return { name, mimeType: "", buffer: readFileSync(join(folder, name)) };
  });
  await other.page.getByLabel("Photographs", { exact: true }).setInputFiles([...bad, ...good]);
  await shown(other, "first.jpg");
  const left = await other.page.getByRole("alert").innerText();
  expect(left).toMatch(/^[45] of 8 files are left out:/); // a server with pillow-heif tries the HEIC file
  for (const reason of [
    "“drawing.svg”: .svg files are not read",
    "“empty.jpg”: the file is empty",
    "“clip.mp4”: a video is opened alone",
    "“notes”: not a photograph",
  ])
    expect(left).toContain(reason);
  await other.shot("left out");
  const thumbnails = other.page.locator(".photo img");
  await expect.poll(() => thumbnails.count()).toBeGreaterThanOrEqual(3); // also of the TIFF, which is not opened yet
  const widths = await thumbnails.evaluateAll((all) => all.map((image) => (image as HTMLImageElement).naturalWidth));
  expect(Math.min(...widths)).toBeGreaterThan(100);
  for (const name of ["scan.tif", "web.avif"]) {
    await other.page.getByRole("button", { name: `${name} untouched` }).click();
    await shown(other, name);
    await other.page.locator(".counter", { hasText: "400 × 300" }).waitFor();
  }
  expect(other.problems).toEqual([]);
  await other.close();
});

test("transparent parts are grey, and stay transparent in cut-outs", async () => {
  const other = await Demo.open(browser, inject("address"));
  await other.ready();
  await checkTransparent(other, join(folder, "sticker.png"));
  expect(other.problems).toEqual([]);
  await other.close();
});

test("a photograph of the package is a click away, and comes into the list once", async () => {
  const other = await Demo.open(browser, inject("address"));
  await other.ready();
  for (const name of ["Coffee", "Cat", "Coffee"]) {
    await other.button("Videos").click();
    await other.page.getByRole("dialog").getByRole("button", { name, exact: true }).click();
    await shown(other, `${name.toLowerCase()}.jpg`);
  }
  await other.page.getByText("1 of 2").waitFor();
  await other.page.locator(".counter", { hasText: "600 × 400" }).waitFor();
  await other.click(0.38, 0.3);
  await other.said(/Object 1: the mask covers/);
  expect(other.problems).toEqual([]);
  await other.close();
});

test("a rotated photograph stands upright", async () => {
  await demo.page.getByLabel("More photographs").setInputFiles(files("rotated.jpg"));
  await opened("rotated.jpg");
  await demo.page.locator(".counter", { hasText: "800 × 600" }).waitFor();
  await demo.click(...VASE);
  await demo.said(/Object 1: the mask covers/);
  await demo.shot("rotated");
});

test("next and previous keep the objects of three photographs", async () => {
  await demo.page.getByLabel("More photographs").setInputFiles(files("second.png", "third.webp", "old.bmp"));
  await opened("old.bmp"); // the first of the new ones
  await demo.page.keyboard.press("PageDown");
  await opened("second.png");
  await demo.click(...VASE);
  await demo.page.keyboard.press("n");
  await demo.click(...APPLE);
  await demo.said(/Object 2: the mask covers/);
  await demo.page.keyboard.press("x");
  await opened("third.webp");
  await photo("second.png done, 2 objects").waitFor();
  expect(await demo.page.locator(".point").count()).toBe(0);
  await demo.page.keyboard.press("PageUp");
  await opened("second.png");
  expect(await demo.page.locator(".point").count()).toBe(2);
  await photo("first.jpg 1 object").click();
  await opened("first.jpg");
  expect(await demo.page.locator(".point").count()).toBe(1);
  await demo.shot("list");
  expect(await violations(demo.page)).toEqual([]);
  expect(demo.problems).toEqual([]);
});

test("classes are proposed on other photographs, and files of all are read by other programs", async () => {
  const label = (name: string) => demo.page.getByLabel(`Class of ${name}`);
  await label("Object 1").fill("vase");
  await label("Object 1").press("Enter");
  await photo("second.png done, 2 objects").click();
  await opened("second.png");
  expect(
    await demo.page.locator("#labels option").evaluateAll((all) => all.map((one) => one.getAttribute("value"))),
  ).toEqual(["vase"]);
  await demo.page.locator(".object-name", { hasText: "Object 1" }).click();
  await label("Object 1").fill("vase");
  await label("Object 1").press("Enter");
  await demo.button("Download", true).click();
  await demo.button("All 5 photographs").waitFor();
  await demo.shot("photographs download");
  const found = await readExports(demo);
  expect(found.map(({ name, size, image, classes }) => [name, size, image, classes])).toEqual([
    ["first.jpg", [1600, 1200], [1600, 1200], ["vase"]],
    ["rotated.jpg", [800, 600], [800, 600], ["object"]],
    ["second.png", [900, 700], [900, 700], ["vase", "object"]],
  ]);
  for (const { share, yolo, cutout } of found) {
    expect(share).toBeGreaterThan(0.01);
    expect(yolo).toBeGreaterThan(0.95);
    expect(cutout).toBe(1);
  }
  await demo.page.keyboard.press("Escape");
  await demo.page.locator("dialog").waitFor({ state: "detached" });
});

test("a photograph that is sent says how much of it, and which of how many", async () => {
  const throttle = await demo.page.context().newCDPSession(demo.page);
  await throttle.send("Network.enable");
  const slow = { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: 100_000 };
  await throttle.send("Network.emulateNetworkConditions", slow);
  const name = "zz noise.png"; // the last
  const [noise] = files("second.png").map((file) => readFileSync(file));
  const buffer = Buffer.concat([noise!, Buffer.alloc(300_000)]);
  await demo.page.getByLabel("More photographs").setInputFiles({ name, mimeType: "image/png", buffer });
  await demo.page
    .getByRole("status")
    .filter({ hasText: /^Sending zz noise\.png, 6 of 6: [1-9]\d? %$/ })
    .waitFor();
  await demo.shot("sending");
  const before = await demo.page.locator(".point").count();
  const spot = await demo.at(0.9, 0.1); // of second.png, which is open until then
  await demo.page.mouse.click(spot.x, spot.y);
  expect(await demo.page.locator(".point").count()).toBe(before + 1);
  await throttle.send("Network.emulateNetworkConditions", { ...slow, uploadThroughput: -1 });
  await opened(name);
  expect(await demo.page.locator(".point").count()).toBe(0);
  await photo("second.png").click();
  await opened("second.png");
  expect(await demo.page.locator(".point").count()).toBe(before + 1);
  await demo.page.keyboard.press("z");
  await demo.settled();
  expect(await demo.page.locator(".point").count()).toBe(before);
  await photo(name).click();
  await opened(name);
});

test("the search for everything shows its progress, and ends when it is cancelled", async () => {
  const looking = demo.page.getByRole("progressbar", { name: "Looking for everything" });
  const answers: number[] = [];
  demo.page.on("response", (response) => void (/\/everything/.test(response.url()) && answers.push(response.status())));
  await demo.button("Everything here").click();
  await looking.waitFor();
  const cancelled = demo.page.waitForRequest((request) => request.method() === "DELETE");
  await demo.page.keyboard.press("a");
  await cancelled;
  await looking.waitFor({ state: "detached" });
  await demo.said(/search is cancelled/);
  expect(answers).toEqual([]); // the page waits for none
  await demo.click(...VASE);
  await demo.said(/Object 1: the mask covers/);
  expect(await demo.page.getByRole("region", { name: "Candidates" }).count()).toBe(0);
  await demo.page.keyboard.press("z");
  await demo.settled();
  expect(demo.problems).toEqual([]);
});

test("everything in a photograph is offered, and becomes objects by keyboard alone", async () => {
  const { keyboard } = demo.page;
  await keyboard.press("PageUp");
  await opened("third.webp");
  await keyboard.press("a");
  const candidates = demo.page.getByRole("region", { name: "Candidates" });
  await candidates.waitFor();
  const offered = candidates.getByRole("button", { name: /^Candidate \d/ });
  const count = await offered.count();
  expect(count).toBeGreaterThan(2);
  for (const place of [0, 1]) {
    await offered.nth(place).focus();
    await keyboard.press("Space");
  }
  await candidates.getByText(`2 of ${count} chosen`).waitFor();
  await demo.shot("everything");
  expect(await violations(demo.page)).toEqual([]);
  await candidates.getByRole("button", { name: "Merge into one" }).press("Enter");
  await demo.said(/1 object added/);
  expect(await demo.page.locator(".object").count()).toBe(1);
  const spot = await demo.at(...VASE);
  await demo.page.mouse.click(spot.x, spot.y); // chooses the candidate there, if it is still offered
  expect(await demo.page.locator(".point").count()).toBe(0);
  await candidates.getByRole("button", { name: "Choose all" }).click();
  await candidates.getByRole("button", { name: "Drop" }).click();
  await candidates.waitFor({ state: "detached" });
  await demo.settled();
  await keyboard.press("z");
  await keyboard.press("Shift+Z");
  await photo("third.webp 1 object").waitFor();
  expect(demo.problems).toEqual([]);
});

test("the list and its masks are there after a reload, and in a project", async () => {
  await demo.saved();
  await demo.page.reload();
  await opened("third.webp");
  await photo("second.png done, 2 objects").click();
  await opened("second.png");
  expect(await demo.page.locator(".point").count()).toBe(2);
  await demo.button("Download", true).click();
  const waiting = demo.page.waitForEvent("download");
  await demo.page.getByRole("dialog").getByRole("button", { name: "Project", exact: true }).click();
  const project = await (await waiting).path();
  await demo.page.keyboard.press("Escape");
  const other = await Demo.open(browser, inject("address"));
  await other.ready();
  await other.button("Videos").click();
  await other.page.getByLabel("Project file").setInputFiles({
    ...{ name: "photographs.json", mimeType: "application/json", buffer: readFileSync(project) },
  });
  await shown(other, "first.jpg");
  await other.page.getByRole("button", { name: "second.png done, 2 objects" }).click();
  await shown(other, "second.png");
  expect(await other.page.locator(".point").count()).toBe(2);
  expect(await other.page.locator(".label-field").inputValue()).toBe("vase");
  expect([...demo.problems, ...other.problems]).toEqual([]);
  await other.close();
});

test("several dropped files open as photographs, a label image as masks", async () => {
  const drop = (names: string[]) =>
    demo.page.evaluate(
      ([files]) => {
        const transfer = new DataTransfer();
        for (const { name, bytes } of files!) transfer.items.add(new File([new Uint8Array(bytes)], name));
        const target = document.querySelector(".stage")!;
        for (const kind of ["dragover", "drop"])
          target.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
      },
      [names.map((name) => ({ name, bytes: [...readFileSync(join(folder, name))] }))],
    );
  await drop(["dropped.png"]);
  await opened("dropped.png");
  await drop(["labels.png"]);
  await demo.said(/1 object imported from “labels.png”/);
  expect(await demo.page.locator(".clip-name").textContent()).toBe("dropped.png");
  await drop(["grey.png"]); // a photograph, though it is grey as label images are
  await opened("grey.png");
  await demo.page.keyboard.press("x");
  await demo.page.keyboard.press("PageUp");
  await opened("dropped.png");
  await drop(["broken.jpg"]);
  await demo.page.getByRole("alert").filter({ hasText: "“broken.jpg” cannot be opened" }).waitFor();
  expect(await demo.page.locator(".clip-name").textContent()).toBe("dropped.png");
});

test("keyboard alone from a click to a file", async () => {
  const { keyboard } = demo.page;
  await demo.page.locator(".frame").focus();
  for (let step = 0; step < 12; step += 1) await keyboard.press("Shift+ArrowLeft");
  for (let step = 0; step < 6; step += 1) await keyboard.press("Shift+ArrowDown");
  await keyboard.press("n");
  await keyboard.press("Enter");
  await demo.said(/Object 2: the mask covers/);
  await demo.settled();
  await keyboard.press("l");
  await keyboard.type("cup");
  await keyboard.press("Enter");
  expect(await demo.page.locator(".object.active .label-field").inputValue()).toBe("cup");
  expect(await demo.page.evaluate(() => document.activeElement?.className)).toMatch(/^frame\b/);
  await keyboard.press("x");
  await photo("dropped.png done, 2 objects").waitFor();
  await keyboard.press("d");
  const dialog = demo.page.getByRole("dialog", { name: "Download" });
  await dialog.waitFor();
  const waiting = demo.page.waitForEvent("download");
  for (let tab = 0; tab < 20; tab += 1) {
    await keyboard.press("Tab");
    if ((await demo.page.evaluate(() => document.activeElement?.textContent)) === "GeoJSON") break;
  }
  await keyboard.press("Enter");
  expect((await waiting).suggestedFilename()).toBe("photographs_geojson.zip");
  await dialog.getByText(/photographs_geojson\.zip, \d+ kB/).waitFor();
  expect(demo.problems).toEqual([]);
});
