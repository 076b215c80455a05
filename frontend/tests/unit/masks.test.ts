import { expect, test } from "vitest";
import { NO_MASKS, Seen, mergeMasks, visibility, withAnswer, withTracked, withoutMask } from "../../src/masks/masks";
import { maskBounds } from "../../src/masks/rle";

const FULL = { height: 2, width: 2, counts: "04" };
const EMPTY = { height: 2, width: 2, counts: "4" };
const { Unknown, Hidden, Visible, Stale } = Seen;

const from = (all: string, here: string | null = null) => new Map([1, 2].map((id) => [id, { all, here }]));
const seen = (masks: typeof NO_MASKS, id: number, key: string) => [...visibility(masks, id, 4, key)];

test("a lane knows where an object is seen, hidden, unknown, and what is stale", () => {
  let masks = withTracked(NO_MASKS, { frame: 1, masks: new Map([[1, FULL], [2, EMPTY]]) }, from("a")); // prettier-ignore
  masks = withTracked(masks, { frame: 3, masks: new Map([[1, EMPTY]]) }, from("a"));
  expect(seen(masks, 1, "a")).toEqual([Unknown, Visible, Unknown, Hidden]);
  expect(seen(masks, 2, "a")).toEqual([Unknown, Hidden, Unknown, Unknown]);
  expect(seen(masks, 1, "b")).toEqual([Unknown, Visible + Stale, Unknown, Hidden + Stale]);
  masks = withAnswer(masks, 1, 1, FULL, "click");
  expect(seen(masks, 1, "b")).toEqual([Unknown, Visible, Unknown, Hidden + Stale]); // a clicked frame is never stale
  expect(seen(withAnswer(NO_MASKS, 0, 1, EMPTY, "click"), 1, "a")[0]).toBe(Unknown); // nothing found, never tracked
});

test("tracking keeps the masks that answer its prompts, and drops removed objects", () => {
  const clicked = withAnswer(NO_MASKS, 0, 1, FULL, "click");
  const tracked = withTracked(clicked, { frame: 0, masks: new Map([[1, EMPTY], [9, FULL]]) }, from("a", "click")); // prettier-ignore
  expect(tracked.get(0)!.get(1)).toMatchObject({ counts: FULL.counts, trackedFrom: "a" });
  expect(tracked.get(0)!.has(9)).toBe(false);
  const again = withTracked(clicked, { frame: 0, masks: new Map([[1, EMPTY]]) }, from("a", "other click"));
  expect(again.get(0)!.get(1)!.counts).toBe(EMPTY.counts);
});

test("masks of some objects are taken from another time", () => {
  const now = withAnswer(withAnswer(NO_MASKS, 0, 1, FULL, "now"), 1, 2, FULL, "now");
  const before = withAnswer(NO_MASKS, 2, 1, FULL, "before");
  const merged = mergeMasks(now, before, new Set([1]));
  expect([...merged].map(([frame, entries]) => [frame, [...entries.keys()]])).toEqual([
    [1, [2]],
    [2, [1]],
  ]);
  expect(withoutMask(merged, 1, 2).has(1)).toBe(false);
  expect(now.get(1)!.has(2)).toBe(true); // nothing changes in place
});

test("bounds of a mask", () => {
  expect(maskBounds(FULL)).toEqual({ left: 0, top: 0, width: 2, height: 2 });
  expect(maskBounds(EMPTY)).toMatchObject({ width: 0, height: 0 });
  // One pixel at x = 1, y = 2 of 4x4: 6 zeros, a one, 9 zeros.
  expect(maskBounds({ height: 4, width: 4, counts: "619" })).toEqual({ left: 1, top: 2, width: 1, height: 1 });
});
