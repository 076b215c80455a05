/** The user's objects with their prompts. Scenes are immutable: every edit returns a new one. */

import type { Mask } from "../masks/rle";

export interface Point {
  /** Shares of the frame's width and height, 0 to 1. */
  readonly x: number;
  readonly y: number;
  readonly positive: boolean;
}

export interface Box {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

export interface Prompt {
  readonly points: readonly Point[];
  readonly box: Box | null;
  /** A mask that was imported or painted, which points and a box refine. */
  readonly mask: Mask | null;
  /** The number of the mask that the user has chosen among the proposed ones; 0, the default, is the best. */
  readonly candidate?: number;
}

export interface SceneObject {
  readonly id: number;
  readonly name: string;
  readonly colour: string;
  /** The class, for exports. */
  readonly label?: string;
  /** Parts and holes of its masks below this share of the frame's area are not shown; see `shownMask`. */
  readonly clean?: number;
  readonly prompts: Readonly<Record<number, Prompt>>; // by frame; never an empty prompt
}

export interface Scene {
  readonly objects: readonly SceneObject[];
}

export const NO_PROMPT: Prompt = { points: [], box: null, mask: null };

/** The colours of the official demo. The server has the same table for its overlay videos. */
export const COLOURS = [
  "#3880f3",
  "#f0aa19",
  "#00d2be",
  "#28d232",
  "#8773ff",
  "#00c8f0",
  "#fa8719",
  "#e6193b",
  "#fa7dc8",
] as const;

export function emptyScene(): Scene {
  return addObject({ objects: [] });
}

/** Adds an object without prompts, named and coloured by its number. */
export function addObject(scene: Scene): Scene {
  const id = 1 + Math.max(0, ...scene.objects.map((object) => object.id));
  return { objects: [...scene.objects, { id, name: `Object ${id}`, colour: colourOf(id), prompts: {} }] };
}

/** The colour of an object without a class. */
function colourOf(id: number): string {
  return COLOURS[(id - 1) % COLOURS.length]!;
}

/** Removes an object. The last one is replaced by a new one, so that a click always has an object. */
export function removeObject(scene: Scene, id: number): Scene {
  const objects = scene.objects.filter((object) => object.id !== id);
  return objects.length > 0 ? { objects } : emptyScene();
}

export function renameObject(scene: Scene, id: number, name: string): Scene {
  return changeObject(scene, id, (object) => ({ ...object, name: name.trim().slice(0, 60) || object.name }));
}

export function labelObject(scene: Scene, id: number, name: string): Scene {
  const label = name.trim().slice(0, 60);
  return changeObject(scene, id, (object) => ({ ...object, label, ...(label === "" && { colour: colourOf(id) }) }));
}

export function cleanObjects(scene: Scene, ids: readonly number[], clean: number): Scene {
  return { objects: scene.objects.map((object) => (ids.includes(object.id) ? { ...object, clean } : object)) };
}

export function findObject(scene: Scene, id: number): SceneObject | undefined {
  return scene.objects.find((object) => object.id === id);
}

export function promptAt(object: Pick<SceneObject, "prompts"> | undefined, frame: number): Prompt {
  return object?.prompts[frame] ?? NO_PROMPT;
}

export function setPrompt(scene: Scene, id: number, frame: number, prompt: Prompt): Scene {
  return changeObject(scene, id, (object) => {
    const { [frame]: _before, ...others } = object.prompts;
    const isEmpty = prompt.points.length === 0 && prompt.box === null && prompt.mask === null;
    return { ...object, prompts: isEmpty ? others : { ...others, [frame]: prompt } };
  });
}

export function addPoint(scene: Scene, id: number, frame: number, point: Point): Scene {
  const prompt = promptAt(findObject(scene, id), frame);
  return setPrompt(scene, id, frame, { ...prompt, points: [...prompt.points, point] });
}

export function removePoint(scene: Scene, id: number, frame: number, index: number): Scene {
  const { points, box, mask } = promptAt(findObject(scene, id), frame);
  return setPrompt(scene, id, frame, { points: points.filter((_, place) => place !== index), box, mask });
}

export function setBox(scene: Scene, id: number, frame: number, box: Box | null): Scene {
  const { points, mask } = promptAt(findObject(scene, id), frame);
  return setPrompt(scene, id, frame, { points, box, mask });
}

/** Frames on which the object has prompts, in order. */
export function promptedFrames(object: Pick<SceneObject, "prompts">): number[] {
  return Object.keys(object.prompts)
    .map(Number)
    .sort((a, b) => a - b);
}

/** The first frame on which anything is prompted; null if nothing is. */
export function firstPromptedFrame(scene: Scene): number | null {
  const frames = scene.objects.flatMap(promptedFrames);
  return frames.length > 0 ? Math.min(...frames) : null;
}

function changeObject(scene: Scene, id: number, change: (object: SceneObject) => SceneObject): Scene {
  return { objects: scene.objects.map((object) => (object.id === id ? change(object) : object)) };
}
