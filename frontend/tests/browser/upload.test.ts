import { copyFileSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { Demo, launch } from "./demo";

let browser: Browser;
let demo: Demo;

beforeAll(async () => {
  browser = await launch();
  demo = await Demo.open(browser, inject("address"));
  await demo.ready();
  await demo.button("Videos").click();
});

afterAll(() => browser.close());

const choose = (name: string, buffer: Buffer) =>
  demo.page.getByLabel("Video file").setInputFiles({ name, mimeType: "application/octet-stream", buffer });

test("files that are not videos are refused and change nothing", async () => {
  await choose("notes.txt", Buffer.from("hello"));
  await demo.page.getByRole("alert").filter({ hasText: "“notes.txt” is not a supported video" }).waitFor();
  await demo.shot("wrong file");
  await choose("fake.mp4", Buffer.from("this is not a video".repeat(100)));
  await demo.page.getByRole("alert").filter({ hasText: "the file is not MP4" }).waitFor();
  await demo.button("Close").click();
  expect(await demo.page.locator(".clip-name").textContent()).toBe("Still life");
  await demo.click(0.26, 0.62);
  await demo.said(/the mask covers/);
  await demo.button("Videos").click();
});

test("another video is opened without a question: the work on this one is kept", async () => {
  await demo.button("Backwards").click();
  await demo.page.locator(".clip-name", { hasText: "Backwards" }).waitFor();
  await demo.ready();
  expect(await demo.page.locator(".point").count()).toBe(0);
  await demo.button("Videos").click();
  await demo.button("Still life").click();
  await demo.page.locator(".point").waitFor();
  expect((await demo.difference()).share).toBeGreaterThan(0.01);
  await demo.button("Videos").click();
});

test("a video that comes into the gallery is shown in the open dialog", async () => {
  const added = join(inject("data"), "gallery", "03_drawn_later.mp4");
  expect(await demo.button("Still life").count()).toBe(1);
  copyFileSync(join(inject("data"), "gallery", "02_backwards.mp4"), added);
  await demo.button("Drawn later").waitFor();
  rmSync(added);
  await demo.button("Drawn later").waitFor({ state: "detached" });
});

test("a video of variable rate says that its frames have other numbers", async () => {
  await choose("uneven.mp4", readFileSync(join(inject("data"), "uneven.mp4")));
  await demo.page.locator(".banner", { hasText: "“uneven.mp4” is shown at a constant" }).waitFor();
  await demo.page.locator(".banner", { hasText: "Frame numbers, also in files, are those of this rate" }).waitFor();
  await demo.button("Videos").click();
});

test("an upload can be cancelled", async () => {
  const throttle = await demo.page.context().newCDPSession(demo.page);
  await throttle.send("Network.enable");
  const slow = { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: 200_000 };
  await throttle.send("Network.emulateNetworkConditions", slow);
  const video = readFileSync(join(inject("data"), "upload.mp4"));
  await choose("long.mp4", Buffer.concat([video, Buffer.alloc(3_000_000)]));
  await demo.page.getByText(/Uploading long\.mp4/).waitFor();
  await demo.shot("uploading");
  await demo.button("Cancel").click();
  await demo.button("Upload a video").waitFor();
  await demo.said(/upload is cancelled/);
  await throttle.send("Network.emulateNetworkConditions", { ...slow, uploadThroughput: -1 });
});

test("a video is uploaded, converted, opened and clicked", async () => {
  await demo.page.getByLabel("Video file").setInputFiles(join(inject("data"), "upload.mp4"));
  await demo.page.locator(".clip-name", { hasText: "upload.mp4" }).waitFor();
  expect(await demo.page.locator(".point").count()).toBe(0);
  await demo.ready();
  await demo.shot("uploaded");
  await demo.page.locator(".counter", { hasText: "1 / 20" }).waitFor(); // its own frames
  await demo.click(0.26, 0.62);
  await demo.said(/Object 1: the mask covers/);
  expect((await demo.difference()).share).toBeGreaterThan(0.01);
  expect(demo.problems).toEqual([]);
});

test("a dropped file that is not a video is refused", async () => {
  await demo.page.evaluate(() => {
    const transfer = new DataTransfer();
    transfer.items.add(new File(["hello"], "dropped.txt"));
    const target = document.querySelector(".stage")!;
    target.dispatchEvent(new DragEvent("dragover", { bubbles: true, cancelable: true, dataTransfer: transfer }));
    target.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer }));
  });
  await demo.page.getByRole("alert").filter({ hasText: "“dropped.txt” is not a supported video" }).waitFor();
});
