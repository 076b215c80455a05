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
});

afterAll(() => browser.close());

const slider = (name: string) => demo.page.getByRole("slider", { name, exact: true });

async function choose(): Promise<void> {
  await demo.button("Videos").click();
  await demo.page.getByLabel("Video file").setInputFiles(join(inject("data"), "long.mp4"));
  await demo.page.getByRole("dialog", { name: "Choose a part" }).waitFor();
}

test("of a long video a part is chosen before the upload", async () => {
  await choose();
  await demo.page.getByText(/It has 12.0 seconds; at most 60 can be used/).waitFor();
  const [start, end] = [slider("Start"), slider("End")];
  expect([await start.inputValue(), await end.inputValue()]).toEqual(["0", "12"]);
  await start.fill("4");
  await end.fill("6");
  await demo.page.getByText("4.0 s to 6.0 s: 2.0 seconds").waitFor();
  await demo.page.locator(".trim video").evaluate((video: HTMLVideoElement) => {
    return video.seeking && new Promise((done) => (video.onseeked = done));
  });
  await demo.shot("trim");
  // A handle takes the other one along.
  await start.fill("8");
  expect(await end.inputValue()).toBe("8.5");
  await start.focus();
  for (let step = 0; step < 40; step += 1) await demo.page.keyboard.press("ArrowLeft");
  expect(Number(await start.inputValue())).toBeCloseTo(4);
  await end.fill("6");
  await demo.button("Use this part").click();
  await demo.page.locator(".counter", { hasText: "1 / 20" }).waitFor();
  await demo.ready();
  expect(demo.problems).toEqual([]);
});

test("trimming can be cancelled", async () => {
  await choose();
  await demo.button("Cancel").click();
  await demo.button("Upload a video").waitFor();
  await demo.page.keyboard.press("Escape");
});

test("a conversion shows how much is done, and can be cancelled", async () => {
  const jobs: string[] = [];
  demo.page.on("request", (request) => jobs.push(`${request.method()} ${new URL(request.url()).pathname}`));
  await choose();
  await demo.button("Use this part").click();
  await demo.page.getByText(/Converting the video: [1-9]\d? %/).waitFor();
  await demo.shot("converting");
  await demo.button("Cancel").click();
  await demo.said(/upload is cancelled/);
  await demo.button("Upload a video").waitFor();
  expect(jobs.filter((call) => call.startsWith("DELETE /api/jobs/"))).toHaveLength(1);
  expect(demo.problems).toEqual([]);
});
