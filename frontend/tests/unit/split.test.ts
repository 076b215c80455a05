import { expect, test } from "vitest";
import { validationOf } from "../../src/local/split";
import cases from "./split_cases.json";

// The names were chosen by the package: scripts/make_split_cases.py.
test.each(cases)("$percent % of $names.length photographs by the seed $seed", async (one) => {
  expect([...(await validationOf(new Set(one.names), one))].sort()).toEqual(one.validation);
});
