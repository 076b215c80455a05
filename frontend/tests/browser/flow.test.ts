import { readFileSync } from "node:fs";
import { strFromU8, unzipSync } from "fflate";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { BACKGROUND_EFFECTS, OBJECT_EFFECTS } from "../../src/effects/look";
import { paintMask } from "../../src/masks/rle";
import { violations } from "./accessibility";
import { Demo, launch } from "./demo";

// Shares of the first frame.
const VASE = [0.26, 0.62] as const;
const MUG_BOX = { from: [0.55, 0.57], to: [0.73, 0.85] } as const;
const EFFECTS = [...Object.values(OBJECT_EFFECTS), ...Object.values(BACKGROUND_EFFECTS)];
const VARIANTS = EFFECTS.reduce((sum, { variants }) => sum + variants, 0);
const FRAMES = 24;
const PNG_COLOUR = 25; // byte of a PNG file: RGBA (6) or palette (3)

let browser: Browser;
let demo: Demo;

beforeAll(async () => {
  browser = await launch();
  demo = await Demo.open(browser, inject("address"));
  await demo.ready();
});

afterAll(() => browser.close());

describe("one video from the gallery to the files", () => {
  test("opens the default video, then another one", async () => {
    expect(await demo.page.locator(".clip-name").textContent()).toBe("Still life");
    await demo.button("Videos").click();
    await demo.shot("gallery");
    expect(await violations(demo.page)).toEqual([]);
    await demo.button("Backwards").click();
    await demo.page.locator(".counter", { hasText: "1 / 12" }).waitFor();
    await demo.button("Videos").click();
    await demo.button("Still life").click();
    await demo.page.locator(".counter", { hasText: `1 / ${FRAMES}` }).waitFor();
    await demo.ready();
    expect((await demo.difference()).share).toBe(0);
  });

  test("shows exactly the requested frame", async () => {
    const session = await demo.page.evaluate(() =>
      fetch("/graphql", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({
          query: 'mutation { startSession(input: { path: "gallery/01_still_life.mp4" }) { sessionId } }',
        }),
      })
        .then((answer) => answer.json() as Promise<{ data: { startSession: { sessionId: string } } }>)
        .then(({ data }) => data.startSession.sessionId),
    );
    for (const frame of [0, 1, 7, 13, FRAMES - 1]) {
      await demo.goTo(frame);
      const near = [frame - 1, frame, frame + 1].filter((other) => other >= 0 && other < FRAMES);
      const distances = await demo.page.evaluate(distancesFromServer, { session, near });
      expect(near[distances.indexOf(Math.min(...distances))], `of ${distances.join(", ")}`).toBe(frame);
    }
    await demo.goTo(0);
  });

  test("a click adds a mask, a right click excludes, a click on a point deletes it", async () => {
    await demo.click(...VASE);
    await demo.said(/Object 1: the mask covers/);
    const { share, tint } = await demo.difference();
    expect(share).toBeGreaterThan(0.01);
    expect(share).toBeLessThan(0.6);
    expect(tint[2]).toBeGreaterThan(tint[0]!); // towards the first object's blue
    await demo.shot("click");
    await demo.click(0.9, 0.2, "right");
    expect(await demo.page.locator(".point.negative").count()).toBe(1);
    await demo.button(/Excluded point 2 of Object 1/).click();
    await demo.settled();
    expect(await demo.page.locator(".point").count()).toBe(1);
    expect((await demo.difference()).share).toBeCloseTo(share, 3);
  });

  test("a second object by a box; rename, undo and redo", async () => {
    await demo.page.keyboard.press("n");
    await demo.page.keyboard.press("b");
    const [from, to] = [await demo.at(...MUG_BOX.from), await demo.at(...MUG_BOX.to)];
    const before = (await demo.difference()).share;
    await demo.page.mouse.move(from.x, from.y);
    await demo.page.mouse.down();
    await demo.page.mouse.move(to.x, to.y, { steps: 4 });
    await demo.page.mouse.up();
    await demo.said(/Object 2: the mask covers/);
    await demo.settled();
    const both = (await demo.difference()).share;
    expect(both).toBeGreaterThan(before + 0.01);

    await demo.page.keyboard.press("z");
    await demo.settled();
    expect((await demo.difference()).share).toBeCloseTo(before, 3);
    await demo.page.keyboard.press("Shift+Z");
    await demo.settled();
    expect((await demo.difference()).share).toBeCloseTo(both, 3);

    await demo.button("Rename Object 2").click();
    await demo.page.keyboard.type("Mug");
    await demo.page.keyboard.press("Enter");
    await demo.button(/^Mug 1 box/).waitFor();
    await demo.page.keyboard.press("i");
    await demo.shot("two objects");
  });

  test("tracking shows masks at once with its rate, and can be cancelled", async () => {
    await demo.button("Track", true).click();
    await demo.page.locator(".progress", { hasText: /^([4-9]|1\d) of 24/ }).waitFor();
    await demo.page.locator(".span.seen").first().waitFor();
    await demo.page.locator(".progress", { hasText: /frames\/s · \d+ s left/ }).waitFor();
    await demo.shot("tracking");
    await demo.button("Cancel").click();
    await demo.said(/cancelled/);
    const lane = (await demo.page.getByRole("group", { name: /^Mug:/ }).getAttribute("aria-label"))!;
    const last = Number(/to (\d+)$/.exec(lane)![1]);
    expect(last).toBeGreaterThan(1);
    expect(last).toBeLessThan(FRAMES);
  });

  test("the next track includes a correction and reaches the end", async () => {
    await demo.goTo(2);
    expect((await demo.difference()).share).toBeGreaterThan(0.01);
    await demo.button(/^Object 1 \d+ point/).click();
    await demo.click(0.3, 0.7);
    await demo.page.getByText("The clicks have changed").waitFor();
    expect(await demo.page.locator(".lane.active .span.stale").count()).toBeGreaterThan(0);
    await demo.shot("stale");
    expect(await demo.button(/Object 1 was clicked on frame 3/).count()).toBe(1);
    await demo.page.keyboard.press("k");
    await demo.page.getByText("Where a mask is wrong").waitFor({ timeout: 120_000 });
    await demo.said(/finished/);
    for (const frame of [FRAMES - 1, 20]) {
      await demo.goTo(frame);
      expect((await demo.difference()).share, `frame ${frame}`).toBeGreaterThan(0.01);
    }
    await demo.shot("tracked");
    await demo.button(/Mug was clicked on frame 1/).click();
    await demo.page.locator('.frame canvas[data-frame="0"]').waitFor();
  });

  test("plays with masks", async () => {
    await demo.button("Play").click();
    await demo.page.locator(".counter", { hasText: /^([6-9]|[1-4]\d) / }).waitFor();
    await demo.button("Pause").click();
    const frame = Number(/^\d+/.exec((await demo.page.locator(".counter").textContent())!)![0]) - 1;
    await demo.page.locator(`.frame canvas[data-frame="${frame}"]`).waitFor();
    expect((await demo.difference()).share).toBeGreaterThan(0.01);
    await demo.goTo(0);
  });

  test("every variant of every effect draws something else", async () => {
    const hashes = new Map<string, string>();
    for (const [list, other] of [
      ["Objects", "Background"],
      ["Background", "Objects"],
    ] as const) {
      await demo.effect(other, "Original");
      const found = await demo.page.evaluate(hashVariants, list);
      for (const [name, hash] of found) hashes.set(`${list} ${name}`, hash);
    }
    expect(hashes.size).toBe(VARIANTS);
    const seen = new Map<string, string[]>();
    for (const [name, hash] of hashes) seen.set(hash, [...(seen.get(hash) ?? []), name]);
    // Both lists contain the unchanged frame.
    const same = [...seen.values()].filter((names) => names.length > 1);
    expect(same).toEqual([["Objects Original effect1/4", "Background Original effect1/3"]]);
    await demo.button("Cut-out").click();
    await demo.settled();
    await demo.shot("cut-out");
    expect((await demo.difference()).share).toBeGreaterThan(0.5); // all that is transparent
    for (let number = 1; number <= 9; number += 1) {
      await demo.button("Surprise me").click();
      await demo.settled();
      await demo.shot(`surprise ${number}`);
    }
    await demo.button("Overlay", true).click();
  });

  test.each(["Cut-outs", "PNG masks", "YouTube-VIS", "COCO", "YOLO", "Frame"])("the download of %s", async (name) => {
    const { name: file, bytes } = await download(name);
    await check(name, file, bytes);
  });

  test("the page has no accessibility violations and no errors", async () => {
    expect(await violations(demo.page)).toEqual([]);
    expect(demo.problems).toEqual([]);
  });
});

async function download(name: string): Promise<{ name: string; bytes: Uint8Array<ArrayBuffer> }> {
  if ((await demo.page.locator("dialog").count()) === 0) await demo.page.keyboard.press("d");
  const waiting = demo.page.waitForEvent("download", { timeout: 120_000 });
  await demo.page.getByRole("dialog").getByRole("button", { name, exact: true }).click();
  const file = await waiting;
  const bytes = new Uint8Array(readFileSync(await file.path()));
  await demo.page
    .getByRole("dialog")
    .getByText(/, [\d.]+ [kM]B$/)
    .waitFor();
  await demo.page.keyboard.press("Escape");
  // Shortcuts work only after the dialog is removed, not when it is merely closed.
  await demo.page.locator("dialog").waitFor({ state: "detached" });
  return { name: file.suggestedFilename(), bytes };
}

async function check(name: string, file: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
  if (name === "YouTube-VIS") {
    expect(file).toBe("Still life_youtube_vis.json");
    const coco = JSON.parse(strFromU8(bytes)) as Coco;
    expect(coco.annotations.map(({ object, name }) => `${object} ${name}`)).toEqual(["1 Object 1", "2 Mug"]);
    for (const { segmentations } of coco.annotations) expect(segmentations.filter(Boolean)).toHaveLength(FRAMES);
    await compareWithScreen(coco);
  } else if (name === "Frame") {
    expect(file).toBe("Still life_00000.png");
    expect(isPng(bytes)).toBe(true);
  } else if (name === "COCO") {
    const entries = unzipSync(bytes);
    expect(Object.keys(entries)).toHaveLength(FRAMES + 1);
    const { images, annotations } = JSON.parse(strFromU8(entries["annotations.json"]!)) as Record<string, unknown[]>;
    expect([images!.length, annotations!.length]).toEqual([FRAMES, 2 * FRAMES]);
  } else if (name === "YOLO") {
    const entries = unzipSync(bytes);
    expect(Object.keys(entries)).toHaveLength(2 * FRAMES + 1);
    expect(strFromU8(entries["labels/00000.txt"]!)).toMatch(/^0 .*\n(.*\n)*1 /);
  } else {
    expect(file).toMatch(/\.zip$/);
    const entries = unzipSync(bytes);
    expect(Object.keys(entries)).toHaveLength(FRAMES);
    const first = entries["00000.png"]!;
    expect(isPng(first)).toBe(true);
    expect(first[PNG_COLOUR]).toBe(name === "PNG masks" ? 3 : 6);
  }
}

interface Coco {
  annotations: { object: number; name: string; segmentations: ({ size: [number, number]; counts: string } | null)[] }[];
}

/** Compares the erased pixels of each frame with the masks in the file. */
async function compareWithScreen({ annotations }: Coco): Promise<void> {
  await demo.effect("Background", "Original");
  await demo.effect("Objects", "Erase");
  for (const frame of [0, 20, FRAMES - 1]) {
    const [height, width] = annotations[0]!.segmentations[frame]!.size;
    const expected = new Uint32Array(height * width);
    for (const { segmentations } of annotations) {
      paintMask({ height, width, counts: segmentations[frame]!.counts }, expected, 1);
    }
    await demo.goTo(frame);
    const erased = await demo.page.evaluate(erasedPixels);
    const wrong = expected.filter((pixel, place) => pixel !== Number(erased[place])).length;
    expect(wrong / erased.length, `frame ${frame}`).toBeLessThan(0.001);
  }
  await demo.button("Overlay", true).click();
  await demo.goTo(0);
}

function isPng(bytes: Uint8Array): boolean {
  return strFromU8(bytes.subarray(1, 4)) === "PNG";
}

// These functions run in the page.

async function distancesFromServer({ session, near }: { session: string; near: number[] }): Promise<number[]> {
  const canvas = document.querySelector<HTMLCanvasElement>(".frame canvas")!;
  const { width, height } = canvas;
  const shown = canvas.getContext("2d")!.getImageData(0, 0, width, height).data;
  const found: number[] = [];
  for (const frame of near) {
    const answer = await fetch(`/api/sessions/${session}/frames/${frame}.jpg`);
    const image = await createImageBitmap(await answer.blob());
    const other = document.createElement("canvas");
    other.width = width;
    other.height = height;
    const context = other.getContext("2d")!;
    context.drawImage(image, 0, 0);
    const expected = context.getImageData(0, 0, width, height).data;
    found.push(shown.reduce((sum, value, place) => sum + Math.abs(value - expected[place]!), 0) / shown.length);
  }
  return found;
}

function erasedPixels(): string {
  const canvas = document.querySelector<HTMLCanvasElement>(".frame canvas")!;
  const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
  return Array.from({ length: data.length / 4 }, (_, pixel) => (data[4 * pixel + 3] === 0 ? 1 : 0)).join("");
}

/** The drawn frame as a hash, for each variant of each effect in a list; clicks every button until its name comes again. */
async function hashVariants(list: string): Promise<[string, string][]> {
  const group = document.querySelector(`[role="group"][aria-label="${list}"]`)!;
  const canvas = document.querySelector<HTMLCanvasElement>(".frame canvas")!;
  const found: [string, string][] = [];
  for (const button of group.querySelectorAll("button")) {
    const names = new Set<string>();
    button.click();
    for (;;) {
      await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      if (names.has(button.textContent)) break;
      names.add(button.textContent);
      const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
      const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", data)).join(" ");
      found.push([button.textContent, hash]);
      button.click();
    }
  }
  return found;
}
