import * as history from "./history";
import * as scenes from "./scene";
import type { Box, Point, Scene } from "./scene";
import { announce, getState, isTracking, setState } from "./store";
import { synchronise } from "./synchronise";

/** The user's edits of objects; each is one undo step. Edits are ignored during tracking. */

export function addPoint(point: Point): void {
  edit((scene, { active, frame }) => scenes.addPoint(scene, active, frame, point));
}

export function setBox(box: Box): void {
  edit((scene, { active, frame }) => scenes.setBox(scene, active, frame, box));
}

export function deletePoint(id: number, frame: number, index: number): void {
  edit((scene) => scenes.removePoint(scene, id, frame, index));
}

export function deleteBox(id: number, frame: number): void {
  edit((scene) => scenes.setBox(scene, id, frame, null));
}

/** Removes the active object's prompts on the current frame. */
export function clearHere(): void {
  edit((scene, { active, frame }) => scenes.setPrompt(scene, active, frame, scenes.NO_PROMPT));
}

export function newObject(): void {
  edit(scenes.addObject, (scene) => scene.objects.at(-1)!.id);
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

/** Removes all objects; undo restores them. */
export function startOver(): void {
  edit(scenes.emptyScene, () => 1);
}

export function undo(): void {
  applyHistory(history.undo, "Undone.");
}

export function redo(): void {
  applyHistory(history.redo, "Redone.");
}

interface Target {
  active: number;
  frame: number;
}

function edit(
  change: (scene: Scene, target: Target) => Scene,
  activate?: (scene: Scene, target: Target) => number,
): void {
  const state = getState();
  if (state.phase !== "ready" || isTracking(state.tracking)) return;
  const scene = change(state.scene, state);
  setState({ history: history.remember(state.history, state.scene) });
  show(scene, activate ? activate(scene, state) : state.active);
}

function applyHistory(step: typeof history.undo<Scene>, message: string): void {
  const { phase, tracking, scene, history: steps, active } = getState();
  const result = phase === "ready" && !isTracking(tracking) ? step(steps, scene) : null;
  if (!result) return;
  setState({ history: result.history });
  announce(message);
  show(result.value, scenes.findObject(result.value, active) ? active : result.value.objects.at(-1)!.id);
}

function show(scene: Scene, active: number): void {
  const { scene: before, tracking } = getState();
  const promptsOf = ({ objects }: Scene) => objects.filter((o) => scenes.promptedFrames(o).length > 0);
  const isSame = (a: Scene, b: Scene) => {
    const [left, right] = [promptsOf(a), promptsOf(b)];
    return left.length === right.length && left.every((object, place) => object.prompts === right[place]!.prompts);
  };
  const becomesStale = tracking.state !== "never" && !isSame(before, scene);
  setState({ scene, active, ...(becomesStale && { tracking: { state: "stale" } }) });
  void synchronise();
}
