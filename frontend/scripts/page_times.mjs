// Prints times and sizes of a page without a server as JSON: `node scripts/page_times.mjs http://127.0.0.1:8000/`.
// Clicks are timed from the pointer's event to the answer of the worker; frames of a track from one to the next.
/* global window, addEventListener, Worker */
import { cpus } from "node:os";
import { chromium } from "playwright-core";

const [address] = process.argv.slice(2);
const CLICKED = 20; // frames
const TRACKS = 3;
const [X, Y] = [0.26, 0.62]; // of an object, in shares of the first video's frame

// Runs in the page before its own scripts.
function watch() {
  localStorage.setItem("sam2fast-coach", "seen");
  const times = Object.assign(window, { times: { clicks: [], frames: [], loaded: 0 } }).times;
  const asked = new Map();
  let down = 0;
  addEventListener("pointerdown", () => (down = performance.now()), true);
  const post = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function (message, ...rest) {
    if (message.kind === "start") this.addEventListener("message", ({ data }) => receive(data));
    if (message.kind === "call" && String(message.call.body).includes("AddPoints")) asked.set(message.id, down);
    return post.call(this, message, ...rest);
  };
  function receive({ kind, id, share }) {
    if (kind === "answer" && asked.has(id)) times.clicks.push(performance.now() - asked.get(id));
    if (kind === "chunk") times.frames.push(performance.now());
    if (kind === "loading" && share === 1) times.loaded ||= performance.now();
  }
}

function summary(times) {
  const sorted = [...times].sort((a, b) => a - b);
  const quantile = (share) => Math.round(sorted[Math.ceil(share * sorted.length) - 1]);
  return { n: sorted.length, p50_ms: quantile(0.5), p95_ms: quantile(0.95) };
}

async function open() {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  await context.addInitScript(watch);
  const page = await context.newPage();
  const sizes = {};
  page.on("response", async (response) => {
    const { pathname } = new URL(response.url());
    if (response.url().startsWith("http")) sizes[pathname] = Number(response.headers()["content-length"] ?? 0);
  });
  await page.goto(address);
  await page.locator(".frame canvas[data-frame]").waitFor();
  await page.waitForFunction("times.loaded");
  return { page, sizes };
}

async function click(page, x, y) {
  const box = await page.locator(".frame").boundingBox();
  const before = await page.evaluate("times.clicks.length");
  await page.mouse.click(box.x + x * box.width, box.y + y * box.height);
  await page.waitForFunction(`times.clicks.length > ${before}`);
  await page.waitForTimeout(250); // other requests end
}

const browser = await chromium.launch({
  executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
  args: ["--no-sandbox"],
});
const { page, sizes } = await open();
const loaded = Math.round(await page.evaluate("times.loaded"));
const bytes = { ...sizes };
const threads = (await page.evaluate("crossOriginIsolated")) ? "several" : 1;
await page.keyboard.press("v"); // no previews: the first click on a frame encodes it
await click(page, X, Y);
for (let frame = 0; frame < CLICKED; frame += 1) {
  await page.keyboard.press("ArrowRight");
  await page.waitForTimeout(150);
  await click(page, X + (frame % 5) / 200, Y - 0.02);
  await click(page, X + 0.01, Y + 0.04 + (frame % 3) / 100);
}
const clicks = (await page.evaluate("times.clicks")).slice(1);

const steps = [];
for (let round = 0; round < TRACKS; round += 1) {
  const { page: other } = await open();
  await click(other, X, Y);
  await other.getByRole("button", { name: "Track", exact: true }).click();
  await other
    .locator(".banners [role=status]")
    .filter({ hasText: /finished/ })
    .waitFor({ state: "attached" });
  const frames = await other.evaluate("times.frames");
  steps.push(...frames.slice(1).map((time, place) => time - frames[place]));
  await other.context().close();
}
const result = {
  date: new Date().toISOString().slice(0, 10),
  processor: cpus()[0].model,
  cores: cpus().length,
  browser: browser.version(),
  badge: await page.locator(".model-badge span").allTextContents(),
  threads,
  loaded_ms: loaded,
  first_click_on_a_frame: summary(clicks.filter((_, place) => place % 2 === 0)),
  second_click_on_a_frame: summary(clicks.filter((_, place) => place % 2 === 1)),
  tracked_frame_of_one_object: summary(steps),
  bytes,
};
console.log(JSON.stringify(result, null, 1));
await browser.close();
