import { asUrl, type Clip } from "../api/video";
import { isLook, type Look } from "../effects/look";
import { promptKey, type FrameEntries, type MaskEntry, type Masks, type Scores } from "../masks/masks";
import { maskArea } from "../masks/rle";
import { isClasses, replaceLabel, type Classes } from "../scene/classes";
import { findObject, type Point, type Prompt, type Scene, type SceneObject } from "../scene/scene";
import type { History } from "../state/history";
import type { State, Step, Tracking } from "../state/store";
import { readHistory, saveHistory, type SavedHistory } from "./steps";

/** The user's work on one video, as it is saved in the browser and in project files. */
export interface Project {
  readonly format: "sam2fast project";
  readonly version: 1;
  readonly clip: Clip;
  readonly numFrames: number;
  readonly scene: Scene;
  readonly active: number;
  readonly frame: number;
  readonly look: Look;
  readonly tracking: Exclude<Tracking["state"], "running" | "cancelling">;
  readonly masks: readonly SavedMask[];
  /** The page's list; in files only, not in the browser, which has one for all videos. */
  readonly classes?: Classes;
  /** Undo and redo; in the browser only, not in files. */
  readonly history?: SavedHistory;
}

interface SavedMask {
  readonly frame: number;
  readonly object: number;
  readonly size: readonly [height: number, width: number];
  readonly counts: string;
  readonly tracked: "no" | "fresh" | "stale";
  /** Whether it answers the prompt on its frame. */
  readonly answers: boolean;
  readonly scores?: Scores;
}

type Work = Pick<State, "clip" | "session" | "scene" | "active" | "frame" | "look" | "tracking" | "masks">;

/** The project of the page's work; null while no video is open. */
export function makeProject(state: Work): Project | null {
  const { clip, session, scene, active, frame, look, tracking } = state;
  if (!clip || !session) return null;
  const { state: name } = tracking;
  const masks = [...state.masks].flatMap(([frame, entries]) =>
    [...entries].map(([object, entry]) => saveMask(scene, frame, object, entry)),
  );
  return {
    format: "sam2fast project",
    version: 1,
    clip,
    numFrames: session.numFrames,
    scene,
    active,
    frame,
    look,
    tracking: name === "running" || name === "cancelling" ? "cancelled" : name,
    masks,
  };
}

/** A project with undo and redo, as it is kept in the browser. */
export function withHistory(project: Project, history: History<Step>): Project {
  const isUndoable = history.past.length + history.future.length > 0;
  return { ...project, ...(isUndoable && { history: saveHistory(history) }) };
}

/** A project with another class for the objects of one, or with none for "". */
export function replaceInProject(project: Project, from: string, to: string): Project {
  const replace = <T extends { readonly scene: Scene }>(step: T) => replaceLabel(step, from, to);
  const { history } = project;
  const steps = history && { ...history, past: history.past.map(replace), future: history.future.map(replace) };
  return { ...replace(project), ...(steps && { history: steps }) };
}

function saveMask(scene: Scene, frame: number, object: number, entry: MaskEntry): SavedMask {
  const prompts = findObject(scene, object)?.prompts ?? {};
  const here = prompts[frame];
  const { height, width, counts, trackedFrom, answerTo, scores } = entry;
  const tracked = trackedFrom === null ? "no" : trackedFrom === promptKey(prompts) ? "fresh" : "stale";
  return {
    frame,
    object,
    size: [height, width],
    counts,
    tracked,
    answers: here !== undefined && answerTo === promptKey(here),
    ...(scores && { scores }),
  };
}

/** The page's state from a project; null if the video has another number of frames. */
export function restoreWork(project: Project, numFrames: number): Partial<State> | null {
  if (project.numFrames !== numFrames) return null;
  const { scene, active, frame, look, tracking } = project;
  const history = project.history && readHistory(project.history);
  const work = { scene, active, frame, look, tracking: { state: tracking }, masks: readMasks(project) };
  return { ...work, ...(history && { history }) };
}

function readMasks({ scene, masks }: Project): Masks {
  const found = new Map<number, Map<number, MaskEntry>>();
  for (const { frame, object, size, counts, tracked, answers, scores } of masks) {
    const prompts = findObject(scene, object)?.prompts ?? {};
    const here = prompts[frame];
    const mask = { height: size[0], width: size[1], counts };
    const entries = found.get(frame) ?? new Map<number, MaskEntry>();
    entries.set(object, {
      ...mask,
      area: maskArea(mask),
      trackedFrom: { no: null, fresh: promptKey(prompts), stale: "" }[tracked],
      answerTo: answers && here ? promptKey(here) : null,
      ...(scores && { scores }),
    });
    found.set(frame, entries);
  }
  return found satisfies ReadonlyMap<number, FrameEntries>;
}

/** Reads a project file. @throws Error that says what is wrong with it */
export function parseProject(text: string): Project {
  let project: Partial<Project> | null = null;
  try {
    project = JSON.parse(text) as Partial<Project> | null;
  } catch (error) {
    throw new Error(`This project is damaged: it is no JSON (${(error as Error).message}).`, { cause: error });
  }
  if (project?.format !== "sam2fast project") throw new Error("This is not a project that was saved by this page.");
  if (project.version !== 1) throw new Error(`This project has version ${project.version}; this page reads version 1.`);
  const { history: _, ...read } = project as Project;
  for (const [part, isSound] of PARTS) {
    let isWrong = true;
    try {
      isWrong = !isSound(read);
    } catch {
      // a part of the part is missing
    }
    if (isWrong) throw new Error(`This project is damaged: ${part} missing or wrong.`);
  }
  // Addresses in a file are not used: it may come from anybody.
  return { ...read, clip: { ...read.clip, url: asUrl(read.clip.path), poster: null } };
}

const TRACKING: readonly unknown[] = ["never", "stale", "done", "partial", "cancelled", "failed"];
const TRACKED: readonly unknown[] = ["no", "fresh", "stale"];

/** What a message names, with its check, which may also throw. */
const PARTS: readonly (readonly [string, (project: Project) => boolean])[] = [
  ["the video (“clip”) is", ({ clip }) => typeof clip.path === "string" && typeof clip.name === "string"],
  ["the number of frames (“numFrames”) is", ({ numFrames }) => isCount(numFrames)],
  ["the frame that is shown (“frame”) is", ({ frame, numFrames }) => isFrame(frame, numFrames)],
  ["the state of tracking (“tracking”) is", ({ tracking }) => TRACKING.includes(tracking)],
  ["the effects (“look”) are", ({ look }) => isLook(look)],
  ["the objects (“scene”) are", ({ scene: { objects } }) => objects.every(isObject) && isDistinct(objects)],
  ["a prompt of an object (“prompts”) is", hasSoundPrompts],
  ["the classes (“classes”) are", ({ classes = [] }) => isClasses(classes)],
  ["the selected object (“active”) is", ({ scene, active }) => findObject(scene, active) !== undefined],
  [
    "the masks (“masks”) are",
    (project) => readMasks(project) !== null && project.masks.every((mask) => isMask(mask, project)),
  ],
];

function isObject({ id, name, colour, clean = 0 }: SceneObject): boolean {
  return isCount(id) && typeof name === "string" && typeof colour === "string" && isShare(clean);
}

function isDistinct(objects: readonly SceneObject[]): boolean {
  return new Set(objects.map(({ id }) => id)).size === objects.length;
}

function hasSoundPrompts({ scene, numFrames }: Project): boolean {
  const prompts = scene.objects.flatMap((object) => Object.entries(object.prompts));
  return prompts.every(([frame, prompt]) => isFrame(Number(frame), numFrames) && isPrompt(prompt));
}

function isMask({ frame, tracked }: SavedMask, { numFrames }: Project): boolean {
  return isFrame(frame, numFrames) && TRACKED.includes(tracked);
}

function isFrame(value: unknown, numFrames: number): boolean {
  return isCount(value) && value < numFrames;
}

function isPrompt({ points, box, mask, candidate }: Prompt): boolean {
  const isPoint = ({ x, y, positive }: Point) => isShare(x) && isShare(y) && typeof positive === "boolean";
  const isEmpty = points.length === 0 && !box && !mask;
  return (
    !isEmpty &&
    points.every(isPoint) &&
    (box === null || [box.left, box.top, box.right, box.bottom].every(isShare)) &&
    (mask === null || (isCount(mask.height) && isCount(mask.width) && maskArea(mask) > 0)) &&
    (candidate === undefined || isCount(candidate))
  );
}

function isCount(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0;
}

function isShare(value: unknown): boolean {
  return typeof value === "number" && value >= 0 && value <= 1;
}
