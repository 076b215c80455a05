import { createStore, del, get, keys, set, update, values } from "idb-keyval";
import type { Clip } from "../api/video";
import { firstPromptedFrame } from "../scene/scene";
import { getState, notify, useStore } from "../state/store";
import { readStored, store } from "../state/stored";
import { makeProject, replaceInProject, withHistory, type Project } from "./project";

/** Saves the work on each video in the browser, by the video's path. */

const SAVED = createStoreIn("sam2fast");
const LAST = "sam2fast-last-video"; // in localStorage
const DELAY_MS = 1000; // after a change; further changes do not postpone it
const LOCK_MS = 1000; // a page that is being left may still hold the lock

let timer = 0;
let writing = 0;
let hasFailed = false;
let unlock = (): void => undefined;

function createStoreIn(name: string) {
  return typeof indexedDB === "undefined" ? undefined : createStore(name, "projects");
}

/**
 * Locks the work on the open video, and unlocks that on the previous one.
 *
 * @returns false if another tab has the video open. Browsers lock on HTTPS and localhost only; elsewhere true.
 */
export async function lockWork(path: string): Promise<boolean> {
  unlock();
  const closed = new Promise<void>((resolve) => (unlock = resolve));
  const locks = globalThis.navigator?.locks as LockManager | undefined;
  if (!locks) return true;
  const name = `sam2fast ${path}`;
  return new Promise((resolve) => {
    const lock = () => {
      resolve(true);
      return closed;
    };
    const request = (): Promise<unknown> =>
      locks.request(name, { signal: AbortSignal.timeout(LOCK_MS) }, lock).catch(async (error: DOMException) => {
        const held = error.name === "TimeoutError" ? (await locks.query()).held : null;
        if (held?.every((other) => other.name !== name))
          await request(); // the browser was too busy to answer in time
        else resolve(false);
      });
    void request();
  });
}

/** Saves whenever the work has changed. */
export function watchWork(): void {
  useStore.subscribe((state, before) => {
    // While the video plays, its position is not saved.
    const isMoved = !state.playing && (state.frame !== before.frame || before.playing);
    if (state.phase !== "ready" || (!isMoved && WORK.every((name) => state[name] === before[name]))) return;
    timer ||= window.setTimeout(() => void saveNow(), DELAY_MS);
  });
  document.addEventListener("visibilitychange", () => void saveNow());
}

const WORK = ["session", "scene", "masks", "look", "active"] as const;

/** Whether prompts, or changes of their objects, are not saved yet. */
export function isUnsaved(): boolean {
  const { scene, elsewhere } = getState();
  return (timer !== 0 || writing > 0 || hasFailed || elsewhere) && firstPromptedFrame(scene) !== null;
}

/** Saves changes that are not saved yet. */
export async function saveNow(): Promise<void> {
  if (timer === 0) return;
  clearTimeout(timer);
  timer = 0;
  writing += 1;
  const project = makeProject(getState());
  if (project) store(LAST, project.clip.path);
  try {
    // Saved work that does not fit the video is kept until the user edits.
    const isKept = project && isUntouched(project) && hasWork(await loadProject(project.clip.path));
    if (project && !isKept && !getState().elsewhere) {
      const saved = withHistory(project, getState().history);
      if (hasWork(project) || saved.history || isUpload(project.clip)) await set(project.clip.path, saved, SAVED);
      else await del(project.clip.path, SAVED);
    }
    hasFailed = false;
  } catch {
    if (!hasFailed) notify("error", "This browser cannot store your work. Save it as a project file.");
    hasFailed = true;
  } finally {
    writing -= 1;
  }
}

/** Whether there are prompts, masks or further objects. */
export function hasWork(project: Project | null): boolean {
  if (!project) return false;
  const { scene, masks } = project;
  return firstPromptedFrame(scene) !== null || masks.length > 0 || scene.objects.length > 1;
}

function isUntouched(project: Project): boolean {
  const { past, future } = getState().history;
  return !hasWork(project) && past.length === 0 && future.length === 0;
}

/** Uploads are saved without work too, for their names, which the server does not know. */
export function isUpload({ path }: Clip): boolean {
  return path.startsWith("uploads/");
}

/** The saved work on a video; null if there is none. */
export async function loadProject(path: string): Promise<Project | null> {
  try {
    return (await get<Project>(path, SAVED)) ?? null;
  } catch {
    return null; // `saveNow` reports that nothing can be stored
  }
}

/** How many objects of a class the saved work on other videos has. */
export async function countSaved(label: string): Promise<number> {
  const open = getState().clip?.path;
  try {
    const others = (await values<Project>(SAVED)).filter(({ clip }) => clip.path !== open);
    return others.flatMap(({ scene }) => scene.objects).filter((object) => object.label === label).length;
  } catch {
    return 0;
  }
}

/** Gives the objects of a class another one in all saved work, or none for "". */
export async function replaceSaved(from: string, to: string): Promise<void> {
  try {
    for (const path of await keys<string>(SAVED)) {
      await update<Project>(path, (project) => replaceInProject(project!, from, to), SAVED);
    }
  } catch {
    // `saveNow` reports that nothing can be stored.
  }
}

/** The uploaded videos of earlier visits. */
export async function loadUploads(): Promise<Clip[]> {
  try {
    const projects = await values<Project>(SAVED);
    return projects.map(({ clip }) => clip).filter(isUpload);
  } catch {
    return [];
  }
}

/** The path of the video that was open last. */
export function lastOpened(): string | null {
  return readStored(LAST) ?? null;
}
