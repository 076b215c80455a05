import { expect, test } from "vitest";
import { exportFile } from "../../src/local/exports";
import { encodeCounts } from "../../src/local/runLengths";

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
  const file = await exportFile("coco_rle", MASKS, VIDEO, new Blob(), "uploads/a.mp4");
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
