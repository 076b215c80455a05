import type { VideoSample } from "mediabunny";
import { expect, test } from "vitest";
import { ConstantRate } from "../../src/local/constantRate";
import { exportFile } from "../../src/local/exports";
import type { RunGraph } from "../../src/local/model";
import { encodeCounts } from "../../src/local/runLengths";
import { withFallback } from "../../src/local/runtime";

const VIDEO = { fps: 10, count: 2, height: 2, width: 3 };
const MASKS = {
  classes: ["cat"],
  objects: [
    { id: 1, name: "Rex", label: "dog" },
    { id: 2, name: "Cup" },
    { id: 5, name: "Bella", label: "dog" },
  ],
  frames: [{ frame: 1, masks: [{ object: 5, size: [2, 3], counts: encodeCounts([1, 3, 2]) }] }],
} as const;

test("objects of one class share their category in COCO, after the listed classes", async () => {
  const task = { report: () => undefined, signal: new AbortController().signal, quality: "high", feather: 0 } as const;
  const file = await exportFile("coco_rle", MASKS, VIDEO, new Blob(), "uploads/a.mp4", task);
  const { categories, annotations } = JSON.parse(await file.text()) as {
    categories: unknown;
    annotations: { category_id: number; areas: unknown; bboxes: unknown }[];
  };
  expect(categories).toEqual([
    { id: 1, name: "cat" },
    { id: 2, name: "dog" },
    { id: 3, name: "object" },
  ]);
  expect(annotations.map(({ category_id }) => category_id)).toEqual([2, 3, 2]);
  expect(annotations[2]).toMatchObject({ areas: [null, 3], bboxes: [null, [0, 0, 2, 2]] });
});

test("where the first runtime fails the second one goes on, and receives the reason", async () => {
  const reasons: string[] = [];
  const named = (name: string) => () => Promise.resolve([{ data: new Float32Array(), dims: [], name }]);
  let isLost = false;
  const gpu: RunGraph = () => (isLost ? Promise.reject(new Error("lost")) : named("gpu")());
  const second = (reason: string) => {
    reasons.push(reason);
    return Promise.resolve<RunGraph>(named("wasm"));
  };
  const run = withFallback(Promise.resolve(gpu), second);
  expect(await run("encoder", {})).toMatchObject([{ name: "gpu" }]);
  isLost = true;
  expect(await run("encoder", {})).toMatchObject([{ name: "wasm" }]);
  isLost = false;
  expect(await run("decoder", {})).toMatchObject([{ name: "wasm" }]);
  expect(reasons).toEqual(["lost"]);

  const other = withFallback(Promise.reject(new Error("no device")), second);
  expect(await other("encoder", {})).toMatchObject([{ name: "wasm" }]);
  expect(reasons).toEqual(["lost", "no device"]);
});

/** The number of the frame at each tick. */
function shownAt(rate: number, times: readonly number[]) {
  const constant = new ConstantRate(rate);
  const open = new Set<object>();
  const frameAt = (number: number, timestamp: number): VideoSample => {
    const frame = {
      ...{ number, timestamp, duration: 0 },
      clone: () => frameAt(number, frame.timestamp),
      close: () => open.delete(frame),
      setTimestamp: (time: number) => (frame.timestamp = time),
      setDuration: (duration: number) => (frame.duration = duration),
    };
    open.add(frame);
    return frame as unknown as VideoSample;
  };
  const frames = times.flatMap((time, number) => {
    const frame = frameAt(number, time);
    const placed = constant.add(frame);
    frame.close();
    return placed;
  });
  frames.forEach(({ timestamp, duration }, tick) => {
    expect([timestamp, duration]).toEqual([tick / rate, 1 / rate]);
  });
  constant.close();
  expect(open.size).toBe(frames.length);
  return { shown: frames.map((frame) => (frame as unknown as { number: number }).number), ...constant.numbering };
}

test("frames of a constant rate keep their numbers, whatever their times are rounded to", () => {
  const numbers = [...Array(600).keys()];
  for (const fps of [10, 24000 / 1001, 25, 30000 / 1001, 30, 60000 / 1001, 60]) {
    for (const unit of [1e3, 9e4, 1e9]) {
      const times = numbers.map((number) => Math.round((number / fps) * unit) / unit);
      const measured = 600 / (times.at(-1)! + Math.round(unit / fps) / unit);
      expect(shownAt(measured, times)).toEqual({ shown: numbers });
    }
  }
});

test("frames that are shown longer and that are left out for a constant rate are counted", () => {
  const pause = [0, 1, 2, 6, 7, 8].map((tick) => tick / 10);
  expect(shownAt(10, pause)).toEqual({ shown: [0, 1, 2, 2, 2, 2, 3, 4, 5], repeated: 1, dropped: 0 });
  expect(shownAt(20 / 3, pause)).toEqual({ shown: [0, 1, 2, 2, 3, 4], repeated: 1, dropped: 1 });
  const fast = [...Array(9).keys()].map((number) => number / 120);
  expect(shownAt(60, fast)).toMatchObject({ repeated: 0, dropped: 4 });
  // Two frames are near one tick, none is near the next.
  expect(shownAt(10, [0, 0.06, 0.14, 0.3])).toEqual({ shown: [0, 1, 2, 3] });
});
