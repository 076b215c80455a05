import { describe, expect, test } from "vitest";
import { Seen } from "../../src/masks/masks";
import { frameAt, timeOf } from "../../src/media/frameTimes";
import { readGesture, type Gesture } from "../../src/player/gestures";
import { boxBetween, fitInside } from "../../src/scene/geometry";
import { findSpans } from "../../src/timeline/spans";

test.each([24, 25, 30, 30000 / 1001, 23.976])("frame -> time -> frame is exact at %f fps", (fps) => {
  for (let frame = 0; frame < 400; frame += 1) {
    // Any time within the frame.
    for (const off of [-0.4, 0, 0.4]) expect(frameAt(timeOf(frame, fps) + off / fps, fps, 400)).toBe(frame);
    // Browsers report a playing frame by its start time in microseconds.
    const start = Math.floor((frame / fps) * 1e6) / 1e6;
    expect(frameAt(start + 0.25 / fps, fps, 400)).toBe(frame);
  }
  expect(frameAt(1e9, fps, 400)).toBe(399);
});

test("fitting keeps the aspect ratio", () => {
  expect(fitInside({ width: 1280, height: 720 }, { width: 640, height: 1000 })).toEqual({ width: 640, height: 360 });
  expect(fitInside({ width: 360, height: 640 }, { width: 1000, height: 320 })).toEqual({ width: 180, height: 320 });
});

describe("gestures", () => {
  const at = { x: 0.2, y: 0.3 };
  const click: Gesture = { start: at, end: at, moved: 0, button: 0, held: false, tool: "include" };
  const sign = (gesture: Gesture) => {
    const action = readGesture(gesture);
    return action?.kind === "point" ? action.positive : action;
  };

  test("a click uses the tool; a right click and a long press do the opposite", () => {
    expect(sign(click)).toBe(true);
    expect(sign({ ...click, tool: "exclude" })).toBe(false);
    expect(sign({ ...click, button: 2 })).toBe(false);
    expect(sign({ ...click, held: true })).toBe(false);
    expect(sign({ ...click, tool: "exclude", button: 2 })).toBe(true);
    expect(sign({ ...click, button: 1 })).toBeNull();
  });

  test("a long movement is not a click, a short one is", () => {
    expect(sign({ ...click, moved: 40 })).toBeNull();
    expect(sign({ ...click, moved: 4 })).toBe(true);
  });

  test("the box tool draws from any corner", () => {
    const drag = { ...click, tool: "box" as const, end: { x: 0.1, y: 0.8 }, moved: 50 };
    expect(readGesture(drag)).toEqual({ kind: "box", box: { left: 0.1, top: 0.3, right: 0.2, bottom: 0.8 } });
    expect(readGesture({ ...drag, moved: 2 })).toBeNull();
    expect(boxBetween(drag.end, drag.start)).toEqual(boxBetween(drag.start, drag.end));
  });
});

test("spans of a lane", () => {
  const { Unknown, Hidden, Visible, Stale } = Seen;
  const seen = [Unknown, Visible, Visible, Hidden, Unknown, Unknown, Visible, Visible + Stale, Hidden + Stale];
  expect(findSpans(Uint8Array.from(seen))).toEqual([
    { start: 1, end: 3, state: "seen", isStale: false },
    { start: 3, end: 4, state: "hidden", isStale: false },
    { start: 6, end: 7, state: "seen", isStale: false },
    { start: 7, end: 8, state: "seen", isStale: true },
    { start: 8, end: 9, state: "hidden", isStale: true },
  ]);
  expect(findSpans(new Uint8Array(0))).toEqual([]);
});
