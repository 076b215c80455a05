import { mergeMasks, promptKey, withAnswer, withoutMask, type Masks } from "../masks/masks";
import type { Mask } from "../masks/rle";
import * as scenes from "../scene/scene";
import type { Box, Point, Prompt, Scene } from "../scene/scene";
import { changedObjects } from "./commands";
import * as history from "./history";
import { trackedState } from "./plan";
import { announce, getState, isOpening, isTracking, notify, setState, type Step } from "./store";
import { onlyAddsPrompts, synchronise } from "./synchronise";
import { cancelTracking } from "./track";

/**
 * The user's edits of objects, each one undo step. Points and boxes wait until tracking ends, other edits cancel it. New
 * objects, points, boxes and the classes of keys also wait until a session is open.
 */

export function addPoint(point: Point): void {
  whenOpen(() => edit((scene, { active, frame }) => scenes.addPoint(scene, active, frame, point)));
}

export function setBox(box: Box): void {
  whenOpen(() => edit((scene, { active, frame }) => scenes.setBox(scene, active, frame, box)));
}

export function deletePoint(id: number, frame: number, index: number): void {
  edit((scene) => scenes.removePoint(scene, id, frame, index));
}

export function deleteBox(id: number, frame: number): void {
  edit((scene) => scenes.setBox(scene, id, frame, null));
}

/** Removes the active object's prompts on the current frame. */
export function clearHere(): void {
  const { scene, active, frame } = getState();
  if (!scenes.findObject(scene, active)?.prompts[frame]) return;
  edit((scene, { active, frame }) => scenes.setPrompt(scene, active, frame, scenes.NO_PROMPT));
}

export function newObject(): void {
  whenOpen(() => edit(scenes.addObject, (scene) => scene.objects.at(-1)!.id));
}

export function deleteObject(id: number): void {
  edit(
    (scene) => scenes.removeObject(scene, id),
    (scene, { active }) => (scenes.findObject(scene, active) ? active : scene.objects.at(-1)!.id),
  );
}

export function renameObject(id: number, name: string): void {
  edit((scene) => scenes.renameObject(scene, id, name));
}

export function labelObject(id: number, label: string): void {
  edit((scene) => scenes.labelObject(scene, id, label));
}

/** Gives the active object a class; waits like the clicks before it. */
export function labelActive(label: string): void {
  whenOpen(() => edit((scene, { active }) => scenes.labelObject(scene, active, label)));
}

/** Sets the size of specks and holes that are not shown. @param isContinued as a part of the last undo step */
export function cleanObjects(ids: readonly number[], clean: number, isContinued = false): void {
  edit((scene) => scenes.cleanObjects(scene, ids, clean), undefined, undefined, isContinued);
}

/** Sets a prompt whose mask is known: one that was chosen or painted. */
export function setAnswer(id: number, frame: number, prompt: Prompt, mask: Mask): void {
  const masks = withAnswer(getState().masks, frame, id, mask, promptKey(prompt));
  edit((scene) => scenes.setPrompt(scene, id, frame, prompt), undefined, masks);
}

/** Removes all objects if the user confirms it; undo restores them. */
export function startOver(): void {
  const text = `All objects of “${getState().clip?.name}” will be removed, with their clicks and masks. Undo restores them.`;
  const onYes = () => edit(scenes.emptyScene, () => 1);
  setState({ dialog: { title: "Start over?", text, no: "Keep them", yes: "Start over", onYes } });
}

/** Replaces objects and masks, as one undo step. */
export function replaceAll(scene: Scene, masks: Masks): void {
  edit(
    () => scene,
    (after, { active }) => (scenes.findObject(after, active) ? active : after.objects.at(-1)!.id),
    masks,
  );
}

export function undo(): void {
  applyHistory(history.undo, "Undone.");
}

export function redo(): void {
  applyHistory(history.redo, "Redone.");
}

/** Makes the edits that came before the session was open. */
export function makeEarlyEdits(): void {
  const { early } = getState();
  setState({ early: [] });
  for (const run of early) run();
}

function whenOpen(run: () => void): void {
  const state = getState();
  if (isOpening(state)) setState({ early: [...state.early, run] });
  else run();
}

interface Target {
  active: number;
  frame: number;
}

function edit(
  change: (scene: Scene, target: Target) => Scene,
  activate?: (scene: Scene, target: Target) => number,
  masks?: Masks,
  isContinued = false,
): void {
  const state = getState();
  if (state.phase !== "ready") return;
  const scene = change(state.scene, state);
  if (!isContinued) setState({ history: history.remember(state.history, { scene: state.scene, masks: state.masks }) });
  show({ scene, masks: masks ?? dropRemoved(state, scene) }, activate ? activate(scene, state) : state.active);
}

function applyHistory(apply: typeof history.undo<Step>, message: string): void {
  const { phase, scene, masks, history: steps, active } = getState();
  const result = phase === "ready" ? apply(steps, { scene, masks }) : null;
  if (!result) return;
  setState({ history: result.history });
  announce(message);
  const { scene: after, masks: theirs } = result.value;
  // The masks of other objects may have been tracked since.
  const restored = { scene: after, masks: mergeMasks(masks, theirs, changedObjects(scene, after)) };
  show(restored, scenes.findObject(after, active) ? active : after.objects.at(-1)!.id);
}

function show(step: Step, active: number): void {
  const { scene: before, tracking, session } = getState();
  const isChanged = changedObjects(before, step.scene).size > 0;
  const isWaiting = isTracking(tracking) && onlyAddsPrompts(step.scene);
  if (isChanged && isTracking(tracking) && !isWaiting) {
    void cancelTracking();
    notify("info", "Tracking is cancelled by your change. Finished frames keep their masks.");
  }
  const isIdle = isChanged && !isTracking(tracking);
  setState({
    ...step,
    active,
    ...(isWaiting && { following: false }),
    ...(isIdle && { tracking: { state: trackedState(step.scene, step.masks, session!.numFrames) } }),
  });
  if (!isWaiting) void synchronise();
}

/** The masks without those of removed objects and prompts. */
function dropRemoved({ scene: before, masks }: Step, after: Scene): Masks {
  let kept = masks;
  for (const object of before.objects) {
    const now = scenes.findObject(after, object.id);
    const frames = scenes.promptedFrames(object);
    // The server forgets an object that loses its last prompt.
    if (!now || (frames.length > 0 && scenes.promptedFrames(now).length === 0))
      kept = mergeMasks(kept, new Map(), new Set([object.id]));
    else for (const frame of frames) if (!now.prompts[frame]) kept = withoutMask(kept, frame, object.id);
  }
  return kept;
}
