import { expect, test } from "vitest";
import { makeProject, parseProject } from "../../src/project/project";
import * as editing from "../../src/state/editing";
import { freshWork, getState, setState } from "../../src/state/store";
import { cleaned } from "../../src/local/pageMasks";
import { cleanMask } from "../../src/masks/clean";
import cases from "./clean_cases.json";

// The masks were cleaned by the package: scripts/make_clean_cases.py.
test.each(cases)("$name is cleaned as by the server", ({ height, width, counts, area, cleaned }) => {
  expect(cleanMask({ height, width, counts }, area).counts).toBe(cleaned);
});

test("files of the page without a server have cleaned masks, by the share of the frame that each object has", () => {
  const { height, width, counts, area, cleaned: expected } = cases.find(({ name }) => name === "a speck in a hole")!;
  const mask = { size: [height, width] as const, counts };
  const objects = [
    { id: 1, name: "One", clean: area / (height * width) },
    { id: 2, name: "Two" },
  ];
  const masks = [1, 2].map((object) => ({ object, ...mask }));
  const found = cleaned({ objects, frames: [{ frame: 0, masks }] }).frames[0]!.masks;
  expect(found.map(({ counts }) => counts)).toEqual([expected, counts]);
});

const clip = { path: "gallery/a.mp4", name: "A", url: "/gallery/a.mp4", poster: null, width: 2, height: 2 };
const limits = () => getState().scene.objects.map(({ clean = 0 }) => clean);

test("a drag is one undo step, for one object or all, and projects keep the size", () => {
  const session = { id: "1", fps: 24, numFrames: 4, source: null };
  setState({ ...freshWork(), clip, session, phase: "ready", connected: true });
  editing.newObject();
  editing.cleanObjects([2], 0.002);
  editing.cleanObjects([2], 0.003, true);
  editing.cleanObjects([2], 0.004, true);
  expect(limits()).toEqual([0, 0.004]);
  editing.cleanObjects([1, 2], 0.005);
  editing.undo();
  expect(limits()).toEqual([0, 0.004]);
  const project = parseProject(JSON.stringify(makeProject(getState())));
  expect(project.scene).toEqual(getState().scene);
  editing.undo();
  expect(limits()).toEqual([0, 0]);
  const [object] = project.scene.objects;
  for (const clean of [2, "0.1", null]) {
    const damaged = JSON.stringify({ ...project, scene: { objects: [{ ...object, clean }] } });
    expect(() => parseProject(damaged)).toThrow(/the objects/);
  }
});
