import { expect, test } from "vitest";
import { alphaOf } from "../../src/masks/alpha";
import cases from "./alpha_cases.json";

// The values were made by the server: scripts/make_alpha_cases.py.
test.each(cases)("soft outlines: $name", ({ feather, rows, alpha }) => {
  const size = { height: rows.length, width: rows[0]!.length };
  const inside = Uint32Array.from(rows.join(""), Number);
  expect([...alphaOf(inside, size, feather)]).toEqual([...Buffer.from(alpha.join(""), "hex")]);
  expect([...alphaOf(inside, size, 0)]).toEqual([...inside].map((value) => 255 * value));
});
