import { inClassColours, isClasses, replaceLabel, withLabels, type Classes } from "../scene/classes";
import type { SceneObject } from "../scene/scene";
import { getState, setState, useStore, type Step } from "./store";
import { readStored, store } from "./stored";

const KEY = "sam2fast-classes"; // in localStorage

/** Shows the classes of earlier visits and other tabs. Classes of objects join them, and objects get their colours. */
export function watchClasses(): void {
  readClasses();
  window.addEventListener("storage", ({ key }) => {
    if (key === KEY) readClasses();
  });
  useStore.subscribe((state, before) => {
    if (state.scene === before.scene && state.classes === before.classes) return;
    joinClasses(state.scene.objects);
    const { scene, classes } = getState();
    const coloured = inClassColours(scene, classes);
    if (coloured !== scene) setState({ scene: coloured });
  });
}

/** Shows a list of classes and keeps it for the next visit. */
export function setClasses(classes: Classes): void {
  setState({ classes });
  store(KEY, JSON.stringify(classes));
}

/** Adds the classes of objects that the list lacks. */
export function joinClasses(objects: readonly SceneObject[]): void {
  const { classes } = getState();
  const joined = withLabels(classes, objects);
  if (joined !== classes) setClasses(joined);
}

/** Shows the classes of a project, which come first. */
export function adoptClasses(found: Classes): void {
  const others = getState().classes.filter(({ name }) => found.every((one) => one.name !== name));
  setClasses([...found, ...others]);
}

/** Shows a list in which a class has another name, or is removed for ""; objects follow, also in what undo restores. */
export function replaceClass(classes: Classes, from: string, to: string): void {
  setState(({ scene, masks, history }) => {
    const replace = (step: Step) => replaceLabel(step, from, to);
    const { past, future } = history;
    const replaced = { past: past.map(replace), future: future.map(replace) };
    return { scene: replace({ scene, masks }).scene, history: replaced, classes };
  });
  setClasses(classes);
}

function readClasses(): void {
  try {
    const stored: unknown = JSON.parse(readStored(KEY) ?? "[]");
    if (isClasses(stored)) setState({ classes: stored });
  } catch {
    // Something else is stored there.
  }
}
