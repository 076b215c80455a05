import { expect, test } from "vitest";
import { exportFile } from "../../src/local/exports";
import type { RunGraph } from "../../src/local/model";
import { encodeCounts } from "../../src/local/runLengths";
import { withFallback } from "../../src/local/runtime";

const VIDEO = { fps: 10, count: 2, height: 2, width: 3 };
const MASKS = {
  objects: [
    { id: 1, name: "Rex", label: "dog" },
    { id: 2, name: "Cup" },
    { id: 5, name: "Bella", label: "dog" },
  ],
  frames: [{ frame: 1, masks: [{ object: 5, size: [2, 3], counts: encodeCounts([1, 3, 2]) }] }],
} as const;

test("objects of one class share their category in COCO", async () => {
  const task = { report: () => undefined, signal: new AbortController().signal, quality: "high" } as const;
  const file = await exportFile("coco_rle", MASKS, VIDEO, new Blob(), "uploads/a.mp4", task);
  const { categories, annotations } = JSON.parse(await file.text()) as {
    categories: unknown;
    annotations: { category_id: number; areas: unknown; bboxes: unknown }[];
  };
  expect(categories).toEqual([
    { id: 1, name: "dog" },
    { id: 2, name: "object" },
  ]);
  expect(annotations.map(({ category_id }) => category_id)).toEqual([1, 2, 1]);
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
