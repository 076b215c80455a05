import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { chromium, type Browser, type BrowserContextOptions, type Page } from "playwright-core";

const CHROMIUM = process.env["CHROMIUM"] ?? "/usr/bin/chromium";
const SHOTS = process.env["SHOTS"]; // folder of screenshots
const TIMEOUT_MS = 30_000;

export function launch(...options: string[]): Promise<Browser> {
  return chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", ...options] });
}

/** The demo in a browser page. */
export class Demo {
  readonly problems: string[] = []; // script errors; the browser also reports failed requests

  private constructor(readonly page: Page) {
    page.setDefaultTimeout(TIMEOUT_MS);
    page.on("pageerror", (error) => this.problems.push(error.message));
    page.on("console", (message) => {
      const text = message.text();
      if (message.type() === "error" && !text.startsWith("Failed to load resource")) this.problems.push(text);
    });
  }

  /** The page after the first visit's hints. @param script runs in the page before its own */
  static async open(
    browser: Browser,
    address: string,
    options: BrowserContextOptions = {},
    script = "",
  ): Promise<Demo> {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    await context.addInitScript(`localStorage.setItem("sam2fast-coach", "seen"); ${script}`);
    const demo = new Demo(await context.newPage());
    await demo.page.goto(address);
    return demo;
  }

  /** Waits until a session is open and a frame is drawn. */
  async ready(): Promise<void> {
    await this.page.locator(".frame canvas[data-frame]").waitFor();
  }

  button(name: string | RegExp, exact = false) {
    return this.page.getByRole("button", { name, exact });
  }

  /** The latest announcement for screen readers. */
  status() {
    return this.page.locator(".banners [aria-live=polite]");
  }

  async said(text: RegExp): Promise<void> {
    await this.status().filter({ hasText: text }).waitFor({ state: "attached" });
  }

  /** The position on the page of shares of the frame. */
  async at(x: number, y: number): Promise<{ x: number; y: number }> {
    const box = (await this.page.locator(".frame").boundingBox())!;
    return { x: box.x + x * box.width, y: box.y + y * box.height };
  }

  /** Clicks at shares of the frame and waits for the mask. */
  async click(x: number, y: number, button: "left" | "right" = "left"): Promise<void> {
    const place = await this.at(x, y);
    await this.page.mouse.click(place.x, place.y, { button });
    await this.settled();
  }

  /** Waits until the server has answered all clicks. */
  async settled(): Promise<void> {
    await this.page.locator(".frame:not(.pending)").waitFor();
    await this.painted();
  }

  /** Selects an effect, by clicks as a user does. */
  async effect(list: "Objects" | "Background", name: string, variant = 1): Promise<void> {
    const button = this.page
      .getByRole("group", { name: list, exact: true })
      .getByRole("button", { name: new RegExp(`^${name} effect`) });
    for (;;) {
      const shown = /(\d)\/\d$/.exec((await button.textContent())!)?.[1] ?? "1";
      if ((await button.getAttribute("aria-pressed")) === "true" && Number(shown) === variant) break;
      await button.click();
    }
    await this.settled();
  }

  /** Waits until changes are saved; before that the browser asks whether to leave. */
  async saved(): Promise<void> {
    await this.page.waitForTimeout(1500);
  }

  private async painted(): Promise<void> {
    await this.page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  }

  async goTo(frame: number): Promise<void> {
    await this.page.keyboard.press("Home");
    for (let step = 0; step < Math.floor(frame / 10); step += 1) await this.page.keyboard.press("Shift+ArrowRight");
    for (let step = 0; step < frame % 10; step += 1) await this.page.keyboard.press("ArrowRight");
    await this.page.locator(`.frame canvas[data-frame="${frame}"]`).waitFor();
    await this.painted();
  }

  /** The share of the canvas's pixels that differ from the video's own, and the mean of their difference in RGB. */
  async difference(): Promise<{ share: number; tint: number[] }> {
    await this.page.mouse.move(0, 0); // the object under the pointer is highlighted
    await this.painted();
    return this.page.evaluate(() => {
      const canvas = document.querySelector<HTMLCanvasElement>(".frame canvas")!;
      const plain = document.createElement("canvas");
      plain.width = canvas.width;
      plain.height = canvas.height;
      const context = plain.getContext("2d")!;
      context.drawImage(document.querySelector<HTMLVideoElement>(".frame video")!, 0, 0, plain.width, plain.height);
      const before = context.getImageData(0, 0, plain.width, plain.height).data;
      const after = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height).data;
      const sum = [0, 0, 0];
      let changed = 0;
      for (let pixel = 0; pixel < after.length; pixel += 4) {
        const parts = [0, 1, 2].map((part) => after[pixel + part]! - before[pixel + part]!);
        if (parts.every((part) => Math.abs(part) < 12) && after[pixel + 3] === 255) continue;
        changed += 1;
        parts.forEach((part, place) => (sum[place]! += part));
      }
      return { share: changed / (after.length / 4), tint: sum.map((part) => part / Math.max(1, changed)) };
    });
  }

  /** Downloads a file by its button of the dialog. */
  async download(name: string, quality = "high"): Promise<{ name: string; path: string }> {
    await this.button("Download", true).click();
    await this.page.getByRole("dialog").getByLabel("Quality").selectOption(quality);
    const waiting = this.page.waitForEvent("download", { timeout: 120_000 });
    await this.page.getByRole("dialog").getByRole("button", { name, exact: true }).click();
    const found = await waiting;
    await this.page.keyboard.press("Escape");
    await this.page.locator("dialog").waitFor({ state: "detached" });
    return { name: found.suggestedFilename(), path: await found.path() };
  }

  async shot(name: string): Promise<void> {
    if (!SHOTS) return;
    mkdirSync(SHOTS, { recursive: true });
    await this.page.screenshot({ path: join(SHOTS, `${name}.png`) });
  }

  async close(): Promise<void> {
    await this.page.context().close();
  }
}
