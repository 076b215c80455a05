import { expect, test } from "vitest";
import { placeBeside } from "../../src/coach/place";
import { counted } from "../../src/scene/counted";

const ROOM = { width: 1000, height: 600 };
const SIZE = { width: 200, height: 100 };
const FRAME = { left: 300, top: 50, width: 500, height: 350 };

test("a hint is below its target, or where it covers neither the target nor the frame", () => {
  expect(placeBeside(FRAME, SIZE, ROOM, FRAME)).toEqual({ left: 450, top: 412 });
  const button = { left: 10, top: 300, width: 100, height: 40 };
  expect(placeBeside(button, SIZE, ROOM, FRAME)).toEqual({ left: 8, top: 352 });
  const low = { left: 0, top: 450, width: 250, height: 150 };
  expect(placeBeside(low, SIZE, ROOM, FRAME)).toEqual({ left: 262, top: 450 });
});

test("where there is no free place, the target is seen", () => {
  const whole = { left: 0, top: 0, ...ROOM };
  const button = { left: 400, top: 560, width: 200, height: 40 };
  expect(placeBeside(button, SIZE, ROOM, whole).top + SIZE.height).toBeLessThanOrEqual(600);
  const { left, top } = placeBeside(button, SIZE, ROOM, whole);
  expect(left + SIZE.width <= 400 || left >= 600 || top + SIZE.height <= 560).toBe(true);
});

test("one frame is not frames", () => {
  expect([counted(0, "frame"), counted(1, "frame"), counted(2, "object")]).toEqual([
    "0 frames",
    "1 frame",
    "2 objects",
  ]);
});
