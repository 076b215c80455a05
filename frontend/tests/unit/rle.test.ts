import { describe, expect, test } from "vitest";
import { decodeCounts, maskArea, maskHas, maskOf, paintMask } from "../../src/masks/rle";
import cases from "./rle_cases.json";

// The strings were made by pycocotools: scripts/make_rle_cases.py.
describe.each(cases)("$name", ({ counts, area, rows }) => {
  const height = rows.length;
  const width = rows[0]!.length;
  const mask = { height, width, counts };

  test("paints what was encoded, row by row", () => {
    const pixels = new Uint32Array(height * width);
    paintMask(mask, pixels, 7);
    const painted = rows.map((_, y) =>
      [...pixels.subarray(y * width, (y + 1) * width)].map((p) => (p ? 1 : 0)).join(""),
    );
    expect(painted).toEqual(rows);
    expect(pixels.every((pixel) => pixel === 0 || pixel === 7)).toBe(true);
  });

  test("has the area and the pixels", () => {
    expect(maskArea(mask)).toBe(area);
    expect(decodeCounts(counts).reduce((sum, run) => sum + run, 0)).toBe(height * width);
    for (let y = 0; y < height; y += 3) {
      for (let x = 0; x < width; x += 2) expect(maskHas(mask, x, y)).toBe(rows[y]![x] === "1");
    }
  });
});

test("pixels outside of the image are not inside the mask", () => {
  const mask = { height: 5, width: 3, counts: cases.find(({ name }) => name === "everything")!.counts };
  expect([maskHas(mask, 2, 4), maskHas(mask, 3, 4), maskHas(mask, 2, 5), maskHas(mask, -1, 0)]).toEqual([
    true,
    false,
    false,
    false,
  ]);
});

test("broken strings and sizes are refused", () => {
  expect(() => decodeCounts("0 ")).toThrow("character 1");
  expect(() => decodeCounts("o")).toThrow("character 1"); // continues into nothing
  expect(() => paintMask({ height: 2, width: 2, counts: "04" }, new Uint32Array(3), 1)).toThrow("3 pixels");
  expect(() => paintMask({ height: 1, width: 2, counts: "04" }, new Uint32Array(2), 1)).toThrow("exceed");
});

test.each(cases)("$name: encoded as pycocotools does", ({ counts, rows }) => {
  const [height, width] = [rows.length, rows[0]!.length];
  const pixels = rows.flatMap((row) => [...row].map(Number));
  expect(maskOf(pixels, { height, width })).toEqual({ height, width, counts });
});
