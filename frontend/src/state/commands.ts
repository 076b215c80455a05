import { promptKey } from "../masks/masks";
import type { Mask } from "../masks/rle";
import { findObject, promptAt, promptedFrames, setPrompt, NO_PROMPT, type Prompt, type Scene } from "../scene/scene";

/** A request that changes the server's prompts. The server knows an object exactly while it has prompts. */
export type Command =
  | { kind: "clearVideo" }
  | { kind: "removeObject"; id: number }
  | { kind: "clearFrame"; id: number; frame: number }
  | { kind: "prompt"; id: number; frame: number; prompt: Prompt }
  /** The mask that a prompt has led to. */
  | { kind: "mask"; id: number; frame: number; prompt: Prompt; mask: Mask };

/** The mask that answers a prompt, if the page has it already. */
type Answer = (id: number, frame: number, prompt: Prompt) => Mask | null;

/**
 * The commands that change the server's prompts from those of `known` to those of `wanted`.
 *
 * A prompt whose answer the page has is sent as this mask: clicks that are sent again all at once, or without the
 * tracked frames of before, would lead to another one.
 */
export function difference(known: Scene, wanted: Scene, answer: Answer = () => null): Command[] {
  const before = known.objects.filter((object) => promptedFrames(object).length > 0);
  const after = wanted.objects.filter((object) => promptedFrames(object).length > 0);
  if (before.length > 0 && after.length === 0) return [{ kind: "clearVideo" }];

  const commands: Command[] = [];
  for (const { id } of before) {
    if (!after.some((object) => object.id === id)) commands.push({ kind: "removeObject", id });
  }
  for (const object of after) {
    const old = findObject(known, object.id);
    // New prompts come first: an object must not lose its last prompt in between.
    for (const frame of promptedFrames(object)) {
      const prompt = promptAt(object, frame);
      const before = promptAt(old, frame);
      if (before === prompt) continue;
      const mask = answer(object.id, frame, prompt);
      const isExtended = extendsPrompt(prompt, before);
      if (mask) {
        commands.push({ kind: "mask", id: object.id, frame, prompt, mask });
      } else if (prompt.mask && !(isExtended && before.mask)) {
        const imported = hasClicks(prompt) ? { ...NO_PROMPT, mask: prompt.mask } : prompt;
        commands.push({ kind: "mask", id: object.id, frame, prompt: imported, mask: prompt.mask });
      } else {
        // SAM 2 refines its earlier mask; removed points must leave no trace in it.
        if (!isExtended) commands.push({ kind: "clearFrame", id: object.id, frame });
        commands.push({ kind: "prompt", id: object.id, frame, prompt });
      }
    }
    for (const frame of old ? promptedFrames(old) : []) {
      if (!object.prompts[frame]) commands.push({ kind: "clearFrame", id: object.id, frame });
    }
  }
  return commands;
}

function hasClicks({ points, box }: Prompt): boolean {
  return points.length > 0 || box !== null;
}

/** Whether `prompt` contains `before`. */
function extendsPrompt(prompt: Prompt, before: Prompt): boolean {
  const hasBox = before.box === null || before.box === prompt.box;
  const hasMask = before.mask === null || before.mask === prompt.mask;
  return hasBox && hasMask && before.points.every((point, place) => point === prompt.points[place]);
}

/** The server's prompts after a command. */
export function applyCommand(known: Scene, command: Command): Scene {
  switch (command.kind) {
    case "clearVideo":
      return { objects: [] };
    case "removeObject":
      return { objects: known.objects.filter((object) => object.id !== command.id) };
    case "clearFrame":
      return setPrompt(known, command.id, command.frame, NO_PROMPT);
    case "prompt":
    case "mask": {
      const isNew = !findObject(known, command.id);
      const blank = { id: command.id, name: "", colour: "", prompts: {} };
      const objects = isNew ? [...known.objects, blank] : known.objects;
      return setPrompt({ objects }, command.id, command.frame, command.prompt);
    }
  }
}

/** The scene with the prompts of `known` only; used when the server refuses the others. */
export function withPromptsOf(scene: Scene, known: Scene): Scene {
  return {
    objects: scene.objects.map((object) => ({ ...object, prompts: findObject(known, object.id)?.prompts ?? {} })),
  };
}

/** Objects whose prompts differ, or that only one of the scenes has. */
export function changedObjects(before: Scene, after: Scene): Set<number> {
  const keys = ({ objects }: Scene) => new Map(objects.map(({ id, prompts }) => [id, promptKey(prompts)]));
  const [old, now] = [keys(before), keys(after)];
  return new Set([...old.keys(), ...now.keys()].filter((id) => (old.get(id) ?? "{}") !== (now.get(id) ?? "{}")));
}

const POSITIVE = 1;
const NEGATIVE = 0;
const BOX_CORNERS = [2, 3];

/** A prompt in SAM 2's form: a box is two points, which come first. */
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
