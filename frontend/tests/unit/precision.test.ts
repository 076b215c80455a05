import { describe, expect, test, vi } from "vitest";
import type { MaskEntry, Masks } from "../../src/masks/masks";
import { clamped, placed, scaled, WHOLE } from "../../src/player/zoom";
import { beginStroke, endStroke } from "../../src/precision/brush";
import { cropAround } from "../../src/scene/geometry";
import * as scenes from "../../src/scene/scene";
import { difference } from "../../src/state/commands";
import { freshWork, getState, setState } from "../../src/state/store";
import { confidenceOf, weakestByFrame, weakestFrames } from "../../src/timeline/confidence";

describe("zoom", () => {
  const frame = { width: 400, height: 200 };
  const room = { width: 400, height: 300 };

  test("the spot under the pointer stays where it is", () => {
    const spot = { x: 0.3, y: 0.6 };
    const where = (view: typeof WHOLE) => {
      const { left, top, width, height } = placed(view, frame, room);
      return { x: left + spot.x * width, y: top + spot.y * height };
    };
    const zoomed = scaled(scaled(WHOLE, 3, spot), 1.5, spot);
    expect(zoomed.scale).toBe(4.5);
    expect(where(zoomed).x).toBeCloseTo(where(WHOLE).x, 9);
    expect(where(zoomed).y).toBeCloseTo(where(WHOLE).y, 9);
    expect(scaled(zoomed, 100, spot).scale).toBe(8);
    expect(scaled(zoomed, 0.01, spot).scale).toBe(1);
  });

  test("the frame leaves no gap that it could fill", () => {
    expect(clamped({ scale: 1, centre: { x: 0, y: 1 } }, frame, room)).toEqual(WHOLE);
    const { left, top, width, height } = placed(
      clamped({ scale: 4, centre: { x: 0, y: 1 } }, frame, room),
      frame,
      room,
    );
    expect([left, top + height, width]).toEqual([0, room.height, 1600]);
    // Higher than the room only from a scale of 1.5 on: before, it stays in the middle.
    expect(clamped({ scale: 1.2, centre: { x: 0.5, y: 0.9 } }, frame, room).centre.y).toBe(0.5);
  });
});

describe("confidence", () => {
  test("is that of the mask, or of the object's absence", () => {
    expect(confidenceOf({ iou: 0.8, presence: 20 })).toBeCloseTo(0.8, 6);
    expect(confidenceOf({ iou: 0.8, presence: 0.1 })).toBeCloseTo(0.42, 2);
    expect(confidenceOf({ iou: 0.1, presence: -20 })).toBeCloseTo(1, 6);
    expect(confidenceOf({ iou: 1.2, presence: 20 })).toBeCloseTo(1, 6);
  });

  test("the least sure object counts; masks of the user do not", () => {
    const mask: MaskEntry = { height: 1, width: 1, counts: "01", area: 1, trackedFrom: "{}", answerTo: null };
    const sure = (iou: number): MaskEntry => ({ ...mask, scores: { iou, presence: 20 } });
    const masks: Masks = new Map([
      [0, new Map([[1, { ...sure(0.2), answerTo: "{}" }]])],
      [1, new Map([[1, sure(0.9)], [2, sure(0.6)]])], // prettier-ignore
      [2, new Map([[1, sure(0.7)]])],
      [40, new Map([[1, sure(0.8)]])],
      [41, new Map([[1, mask]])],
    ]);
    const found = weakestByFrame(masks, 48);
    expect(found[1]!.object).toBe(2);
    expect([found[0]!.confidence, found[3], found[41]]).toEqual([1, null, null]);
    expect(weakestFrames(found)).toEqual([1, 40]); // frame 2 is near to 1, as is 0
  });
});

test("a crop is a square around the mask with a margin, inside the frame", () => {
  const frame = { width: 100, height: 60 };
  const crop = (left: number, top: number, width: number, height: number) =>
    cropAround({ left, top, width, height }, frame, 0.25);
  expect(crop(40, 20, 20, 10)).toEqual({ left: 35, top: 10, width: 30, height: 30 });
  expect(crop(0, 0, 4, 8)).toEqual({ left: 0, top: 0, width: 12, height: 12 }); // at the edge it is moved
  expect(crop(10, 0, 60, 60)).toEqual({ left: 0, top: 0, width: 90, height: 60 });
});

describe("candidates", () => {
  const mask = { height: 1, width: 1, counts: "01" };
  const point = { x: 0.5, y: 0.5, positive: true };
  const clicked = scenes.addPoint(scenes.emptyScene(), 1, 0, point);
  const chosen = scenes.setPrompt(clicked, 1, 0, { ...clicked.objects[0]!.prompts[0]!, candidate: 2 });

  test("the chosen mask is sent, a further click refines it", () => {
    expect(difference(clicked, chosen, () => mask)).toMatchObject([{ kind: "mask", mask }]);
    const refined = scenes.addPoint(chosen, 1, 0, { ...point, positive: false });
    expect(difference(chosen, refined)).toMatchObject([{ kind: "prompt", prompt: { candidate: 2 } }]);
  });

  test("without its click there is no choice", () => {
    expect(scenes.removePoint(chosen, 1, 0, 0).objects[0]!.prompts).toEqual({});
    const two = scenes.addPoint(chosen, 1, 0, point);
    expect(scenes.removePoint(two, 1, 0, 1).objects[0]!.prompts[0]).toEqual({ points: [point], box: null, mask: null });
  });
});

/** A canvas on which every pixel is painted. */
function stubCanvas(): void {
  const painted = { data: new Uint8ClampedArray(16).fill(255) };
  const context = new Proxy(
    { canvas: { width: 2, height: 2 } },
    {
      get: (target, name) => (name === "canvas" ? target["canvas"] : () => painted),
    },
  );
  vi.stubGlobal("document", { createElement: () => ({ getContext: () => context }) });
}

const CLIP = { path: "gallery/a.mp4", name: "A", url: "/gallery/a.mp4", poster: null, width: 2, height: 2 };

test("a tracked mask that is wiped completely stays, and the page says so", () => {
  stubCanvas();
  const mask = { height: 2, width: 2, counts: "04", area: 4, trackedFrom: "{}", answerTo: null };
  setState({ ...freshWork(), clip: CLIP, masks: new Map([[0, new Map([[1, mask]])]]), phase: "ready" });
  beginStroke({ x: 0.5, y: 0.5 }, false);
  endStroke();
  expect(getState().masks.get(0)!.get(1)).toBe(mask);
  expect(getState().notice?.text).toMatch(/cannot be wiped completely/);
});

test("a click whose mask is not there yet is not painted over", () => {
  stubCanvas();
  const scene = scenes.addPoint(scenes.emptyScene(), 1, 0, { x: 0.5, y: 0.5, positive: true });
  setState({ ...freshWork(), clip: CLIP, scene, phase: "ready" });
  beginStroke({ x: 0.5, y: 0.5 }, true);
  endStroke();
  expect(getState().scene).toBe(scene);
  expect(getState().notice?.text).toMatch(/not there yet/);
});
