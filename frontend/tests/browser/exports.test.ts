import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { Demo, launch } from "./demo";
import { PYTHON } from "./serve";

const FRAMES = 20;
const FPS = 10;
const COMPARED = [0, 9, FRAMES - 1];

let browser: Browser;
let demo: Demo;
const shown: string[] = []; // by COMPARED: for each pixel, whether the page draws an object there

/** A video with sound is uploaded, an object is tracked, and drawn white on black: masks can be measured on it. */
beforeAll(async () => {
  browser = await launch();
  demo = await Demo.open(browser, inject("address"), {}, `(${countSeeks.toString()})()`);
  await demo.ready();
  await demo.button("Videos").click();
  await demo.page.getByLabel("Video file").setInputFiles(join(inject("data"), "sound.mp4"));
  await demo.page.locator(".counter", { hasText: `1 / ${FRAMES}` }).waitFor();
  await demo.ready();
  await demo.click(0.26, 0.62);
  await demo.effect("Objects", "Erase", 3);
  await demo.effect("Background", "Erase", 2);
  await demo.button("Track", true).click();
  await demo.said(/finished/);
  for (const frame of COMPARED) {
    await demo.goTo(frame);
    shown.push(await demo.page.evaluate(whitePixels));
  }
});

afterAll(() => browser.close());

test.each([
  ["Video", "sound.mp4", "by the browser"],
  ["Video", "sound.mp4", "by the server, where the browser cannot"],
])("%s, %s, is encoded %s: frames, times, sound and masks", async (format, name, how) => {
  if (how.endsWith("cannot")) await demo.page.evaluate("delete window.VideoEncoder, delete window.VideoDecoder");
  await demo.page.evaluate("seeks = 0");
  const requests: string[] = [];
  demo.page.on("request", (request) => requests.push(request.url()));
  await demo.page.keyboard.press("d");
  const waiting = demo.page.waitForEvent("download", { timeout: 120_000 });
  await demo.page.getByRole("dialog").getByRole("button", { name: format, exact: true }).click();
  await demo.page.getByRole("progressbar", { name: "Rendering" }).waitFor();
  const download = await waiting;
  expect(download.suggestedFilename()).toBe(name);
  await demo.page.getByText(new RegExp(`${name}, [\\d.]+ [kM]B$`)).waitFor();
  await demo.page.keyboard.press("Escape");
  await demo.page.locator("dialog").waitFor({ state: "detached" });
  expect(requests.some((url) => url.includes("/encode"))).toBe(how !== "by the browser");
  expect(await demo.page.evaluate("seeks")).toBe(how.endsWith("cannot") ? FRAMES : 0);

  const path = await download.path();
  const inside = shown.map((pixels) => pixels.replaceAll("0", "").length / pixels.length);
  expect(Math.min(...inside)).toBeGreaterThan(0.01);

  const facts = execFileSync(PYTHON, [join(import.meta.dirname, "describe_video.py"), path]);
  const video = JSON.parse(facts.toString()) as Record<"frames" | "rate" | "last" | "sound", number> & {
    inside: number[];
  };
  expect(video).toMatchObject({ frames: FRAMES, rate: FPS });
  expect(video.last).toBeCloseTo((FRAMES - 1) / FPS, 2);
  expect(video.sound).toBeCloseTo(FRAMES / FPS, 0);
  expect(video.inside).toHaveLength(FRAMES);
  COMPARED.forEach((frame, place) => expect(video.inside[frame]! / inside[place]!).toBeCloseTo(1, 1.5));

  const times = COMPARED.map((frame) => (frame + 0.5) / FPS);
  const bytes = readFileSync(path).toString("base64");
  const played = await demo.page.evaluate(play, { bytes, type: `video/${name.split(".")[1]}`, times, fps: FPS });
  expect(played).toMatchObject({ width: 480, height: 320 });
  expect(played.seconds).toBeCloseTo(FRAMES / FPS, 1);
  expect(played.sound).toBeCloseTo(FRAMES / FPS, 0);
  played.inside.forEach((pixels, place) => expect(iou(pixels, shown[place]!)).toBeGreaterThan(0.99));
  expect(demo.problems).toEqual([]);
});

function iou(a: string, b: string): number {
  let [both, either] = [0, 0];
  for (let pixel = 0; pixel < a.length; pixel += 1) {
    if (a[pixel] === "1" && b[pixel] === "1") both += 1;
    if (a[pixel] === "1" || b[pixel] === "1") either += 1;
  }
  return both / either;
}

// These functions run in the page.

/** Counts seeks of all videos in `seeks`. */
function countSeeks(): void {
  const time = Object.getOwnPropertyDescriptor(HTMLMediaElement.prototype, "currentTime")!;
  Object.assign(window, { seeks: 0 });
  Object.defineProperty(HTMLMediaElement.prototype, "currentTime", {
    ...time,
    set(seconds: number) {
      (window as unknown as { seeks: number }).seeks += 1;
      time.set!.call(this, seconds);
    },
  });
}

function whitePixels(): string {
  const canvas = document.querySelector<HTMLCanvasElement>(".frame canvas")!;
  const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
  return Array.from({ length: data.length / 4 }, (_, pixel) => (data[4 * pixel]! >= 128 ? 1 : 0)).join("");
}

/** Size, seconds of video and sound, and for each time which pixels are white and opaque. */
async function play({ bytes, type, times, fps }: { bytes: string; type: string; times: number[]; fps: number }) {
  const content = Uint8Array.from(atob(bytes), (character) => character.charCodeAt(0));
  const video = document.createElement("video");
  video.src = URL.createObjectURL(new Blob([content], { type }));
  await new Promise((done, failed) => {
    video.onloadeddata = done;
    video.onerror = () => failed(new Error(video.error?.message));
  });
  const { videoWidth: width, videoHeight: height, duration: seconds } = video;
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d")!;
  const inside: string[] = [];
  for (const time of times) {
    await new Promise((done) => {
      video.onseeked = done;
      video.currentTime = time;
    });
    // Just after a seek the video may still show its earlier frame.
    for (let isThere = false; !isThere;) {
      await new Promise(requestAnimationFrame);
      const image = new VideoFrame(video);
      isThere = Math.floor(time * fps) === Math.round((image.timestamp / 1e6) * fps);
      image.close();
    }
    context.clearRect(0, 0, width, height);
    context.drawImage(video, 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    const isInside = (at: number) => data[at]! >= 128 && data[at + 3]! >= 128;
    inside.push(Array.from({ length: width * height }, (_, pixel) => (isInside(4 * pixel) ? 1 : 0)).join(""));
  }
  const sound = await new OfflineAudioContext(1, 48000, 48000).decodeAudioData(content.buffer);
  return { width, height, seconds, sound: sound.duration, inside };
}
