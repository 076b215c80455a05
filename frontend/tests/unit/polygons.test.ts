import { expect, test } from "vitest";
import { yoloLine } from "../../src/local/exports";
import { polygonsOf } from "../../src/local/outlines";
import cases from "./polygon_cases.json";

// The polygons were made by the package: scripts/make_polygon_cases.py.
test.each(cases)("$name has the package's polygons", ({ height, width, counts, rings, line }) => {
  const found = polygonsOf({ height, width, counts });
  const shapes = found.flatMap(({ outer, holes }) => [outer, ...holes]);
  expect(shapes.map((ring) => ring.map((corner) => corner.join(",")).join(" "))).toEqual(rings);
  if (line !== null) expect(yoloLine(3, found, { height, width })).toBe(line);
});
