import { expect, test } from "vitest";
import { applyCommand, difference, encodePrompt, withPromptsOf } from "../../src/state/commands";
import * as history from "../../src/state/history";
import {
  COLOURS,
  NO_PROMPT,
  addObject,
  addPoint,
  emptyScene,
  firstPromptedFrame,
  removeObject,
  removePoint,
  renameObject,
  setBox,
  setPrompt,
  type Scene,
} from "../../src/scene/scene";

const POINT = { x: 0.25, y: 0.5, positive: true };
const BOX = { left: 0.1, top: 0.2, right: 0.3, bottom: 0.4 };
const NOTHING: Scene = { objects: [] };

function twoObjects(): Scene {
  const one = addPoint(emptyScene(), 1, 4, POINT);
  return setBox(addObject(one), 2, 7, BOX);
}

/** The commands from one scene to another, applied until none is left. */
function commands(known: Scene, wanted: Scene): string[] {
  const found: string[] = [];
  // As in the page: one at a time, each from the server's new state.
  for (let command = difference(known, wanted)[0]; command; command = difference(known, wanted)[0]) {
    found.push(
      Object.values({ ...command, prompt: undefined })
        .filter((v) => v !== undefined)
        .join(" "),
    );
    known = applyCommand(known, command);
    if (found.length > 20) throw new Error(`no end: ${found.join(", ")}`);
  }
  return found;
}

test("objects are numbered, named and coloured", () => {
  const scene = addObject(addObject(emptyScene()));
  expect(scene.objects.map(({ id, name }) => `${id} ${name}`)).toEqual(["1 Object 1", "2 Object 2", "3 Object 3"]);
  expect(addObject(removeObject(scene, 2)).objects.map(({ id }) => id)).toEqual([1, 3, 4]);
  let many = removeObject(scene, 2);
  while (many.objects.length < 12) many = addObject(many);
  // By its number, as on the server, independent of the other objects.
  for (const { id, colour } of many.objects) expect(colour).toBe(COLOURS[(id - 1) % 9]);
  expect(new Set(COLOURS).size).toBe(9);
  expect(removeObject(emptyScene(), 1).objects).toHaveLength(1);
  expect(renameObject(scene, 2, "  Cup ").objects[1]!.name).toBe("Cup");
  expect(renameObject(scene, 2, " ").objects[1]!.name).toBe("Object 2");
});

test("a prompt that becomes empty is gone", () => {
  const scene = removePoint(twoObjects(), 1, 4, 0);
  expect(scene.objects[0]!.prompts).toEqual({});
  expect(firstPromptedFrame(scene)).toBe(7);
  expect(firstPromptedFrame(withPromptsOf(scene, NOTHING))).toBeNull();
});

test("the difference of two scenes as commands", () => {
  const scene = twoObjects();
  expect(commands(NOTHING, scene)).toEqual(["prompt 1 4", "prompt 2 7"]);
  expect(commands(scene, scene)).toEqual([]);
  expect(commands(scene, renameObject(addObject(scene), 1, "Cup"))).toEqual([]); // no change for the server
  expect(commands(scene, addPoint(scene, 1, 4, POINT))).toEqual(["prompt 1 4"]);
  const more = addPoint(scene, 1, 4, { ...POINT, positive: false });
  expect(commands(more, scene)).toEqual(["clearFrame 1 4", "prompt 1 4"]); // the second point leaves no trace
  expect(commands(scene, setBox(scene, 1, 4, BOX))).toEqual(["prompt 1 4"]);
  expect(commands(setBox(scene, 1, 4, BOX), setBox(scene, 1, 4, { ...BOX, left: 0 }))).toHaveLength(2);
  expect(commands(scene, removePoint(addPoint(scene, 1, 5, POINT), 1, 4, 0))).toEqual(["prompt 1 5", "clearFrame 1 4"]);
  expect(commands(scene, removePoint(scene, 1, 4, 0))).toEqual(["removeObject 1"]);
  expect(commands(scene, removeObject(scene, 2))).toEqual(["removeObject 2"]);
  expect(commands(scene, withPromptsOf(scene, NOTHING))).toEqual(["clearVideo"]);
  expect(commands(removeObject(scene, 1), scene)).toEqual(["prompt 1 4"]); // undone
});

test("a prompt whose mask the page has is sent as this mask", () => {
  const scene = twoObjects();
  const mask = { height: 2, width: 2, counts: "04" };
  expect(difference(NOTHING, scene, (id) => (id === 2 ? mask : null)).map(({ kind }) => kind)).toEqual([
    "prompt",
    "mask",
  ]);
  const sent = difference(NOTHING, scene, () => mask).reduce(applyCommand, NOTHING);
  expect(difference(sent, scene)).toEqual([]);
});

test("an imported mask comes before the clicks that refine it", () => {
  const mask = { height: 2, width: 2, counts: "04" };
  const imported = setPrompt(emptyScene(), 1, 3, { ...NO_PROMPT, mask });
  const clicked = addPoint(imported, 1, 3, POINT);
  const kinds = (known: Scene, wanted: Scene) => commands(known, wanted).map((command) => command.split(" ")[0]);
  expect(kinds(NOTHING, imported)).toEqual(["mask"]);
  expect(kinds(NOTHING, clicked)).toEqual(["mask", "prompt"]);
  expect(kinds(imported, clicked)).toEqual(["prompt"]);
  expect(kinds(clicked, imported)).toEqual(["mask"]); // the click is undone
});

test("a refused prompt is reverted, names stay", () => {
  const known = twoObjects();
  const wanted = renameObject(addPoint(addObject(known), 3, 0, POINT), 1, "Cup");
  const left = withPromptsOf(wanted, known);
  expect(left.objects.map(({ name }) => name)).toEqual(["Cup", "Object 2", "Object 3"]);
  expect(commands(known, left)).toEqual([]);
});

test("a box is two points, and comes first", () => {
  const prompt = { points: [POINT, { x: 0.9, y: 0.8, positive: false }], box: BOX, mask: null };
  expect(encodePrompt(prompt)).toEqual({
    points: [
      [0.1, 0.2],
      [0.3, 0.4],
      [0.25, 0.5],
      [0.9, 0.8],
    ],
    labels: [2, 3, 1, 0],
  });
  expect(encodePrompt({ ...NO_PROMPT, points: [POINT] })).toEqual({ points: [[0.25, 0.5]], labels: [1] });
});

test("undo after a refusal restores an accepted step", () => {
  const isAccepted = (step: string) => step === "accepted";
  const after = (past: string[], future: string[]) => history.withoutRefused({ past, future }, isAccepted);
  expect(after(["a", "accepted"], [])).toEqual({ past: ["a"], future: [] }); // one click refused
  expect(after(["a", "accepted", "b"], [])).toEqual({ past: ["a"], future: [] }); // with another one after it
  expect(after(["a"], ["accepted", "c"])).toEqual({ past: ["a"], future: ["c"] }); // an undo refused
  expect(after(["a", "accepted"], ["c"])).toEqual({ past: ["a"], future: ["c"] }); // a redo refused
  expect(after(["a", "b"], [])).toEqual({ past: ["a"], future: [] }); // the step is no longer in the history
  expect(after([], [])).toEqual({ past: [], future: [] });
});

test("undo and redo", () => {
  let steps: history.History<string> = history.NO_HISTORY;
  steps = history.remember(history.remember(steps, "a"), "b");
  const back = history.undo(steps, "c")!;
  expect(back.value).toBe("b");
  expect(history.redo(back.history, "b")).toEqual({ value: "c", history: { past: ["a", "b"], future: [] } });
  expect(history.undo(history.undo(back.history, "b")!.history, "a")).toBeNull();
  expect(history.redo(history.remember(back.history, "b"), "d")).toBeNull(); // an edit ends the future
});
