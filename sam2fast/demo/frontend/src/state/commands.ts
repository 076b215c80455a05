import { findObject, promptAt, promptedFrames, setPrompt, NO_PROMPT, type Prompt, type Scene } from "./scene";

/** What the server has to be told. An object is known to it exactly while it has prompts. */
export type Command =
  | { kind: "clearVideo" }
  | { kind: "removeObject"; id: number }
  | { kind: "clearFrame"; id: number; frame: number }
  | { kind: "prompt"; id: number; frame: number; prompt: Prompt };

/** The commands that make a server which knows the prompts of `known` know those of `wanted`. */
export function difference(known: Scene, wanted: Scene): Command[] {
  const before = known.objects.filter((object) => promptedFrames(object).length > 0);
  const after = wanted.objects.filter((object) => promptedFrames(object).length > 0);
  if (before.length > 0 && after.length === 0) return [{ kind: "clearVideo" }];

  const commands: Command[] = [];
  for (const { id } of before) {
    if (!after.some((object) => object.id === id)) commands.push({ kind: "removeObject", id });
  }
  for (const object of after) {
    const old = findObject(known, object.id);
    // New prompts first: an object must not lose its last one in between.
    for (const frame of promptedFrames(object)) {
      const prompt = promptAt(object, frame);
      const before = promptAt(old, frame);
      if (before === prompt) continue;
      // SAM 2 starts from the mask it had; what has been taken back must leave no trace in it.
      if (!extendsPrompt(prompt, before)) commands.push({ kind: "clearFrame", id: object.id, frame });
      commands.push({ kind: "prompt", id: object.id, frame, prompt });
    }
    for (const frame of old ? promptedFrames(old) : []) {
      if (!object.prompts[frame]) commands.push({ kind: "clearFrame", id: object.id, frame });
    }
  }
  return commands;
}

/** Whether `prompt` is `before` and more. */
function extendsPrompt(prompt: Prompt, before: Prompt): boolean {
  const hasBox = before.box === null || before.box === prompt.box;
  return hasBox && before.points.every((point, place) => point === prompt.points[place]);
}

/** What the server knows after a command. */
export function applyCommand(known: Scene, command: Command): Scene {
  switch (command.kind) {
    case "clearVideo":
      return { objects: [] };
    case "removeObject":
      return { objects: known.objects.filter((object) => object.id !== command.id) };
    case "clearFrame":
      return setPrompt(known, command.id, command.frame, NO_PROMPT);
    case "prompt": {
      const isNew = !findObject(known, command.id);
      const blank = { id: command.id, name: "", colour: "", prompts: {} };
      const objects = isNew ? [...known.objects, blank] : known.objects;
      return setPrompt({ objects }, command.id, command.frame, command.prompt);
    }
  }
}

/** The scene with the prompts of `known`: what is left when the server refuses the rest. */
export function withPromptsOf(scene: Scene, known: Scene): Scene {
  return {
    objects: scene.objects.map((object) => ({ ...object, prompts: findObject(known, object.id)?.prompts ?? {} })),
  };
}

const POSITIVE = 1;
const NEGATIVE = 0;
const BOX_CORNERS = [2, 3];

/** A prompt as SAM 2 takes it: a box is two points, which come first. */
export function encodePrompt({ points, box }: Prompt): { points: number[][]; labels: number[] } {
  const corners = box
    ? [
        [box.left, box.top],
        [box.right, box.bottom],
      ]
    : [];
  return {
    points: [...corners, ...points.map(({ x, y }) => [x, y])],
    labels: [...(box ? BOX_CORNERS : []), ...points.map(({ positive }) => (positive ? POSITIVE : NEGATIVE))],
  };
}
