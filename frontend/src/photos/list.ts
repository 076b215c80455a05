import { create } from "zustand";
import { asApiError } from "../api/errors";
import { uploadVideo, whyLeftOut, type UploadProgress } from "../api/upload";
import { preparePhoto, type Limits } from "../api/rest";
import { isPhoto, type Clip } from "../api/video";
import { loadProject, saveNow } from "../project/autosave";
import { makeProject, withHistory, type Project } from "../project/project";
import { openClip } from "../project/session";
import type { Scene } from "../scene/scene";
import { joinClasses } from "../state/classes";
import { announce, getState, isOpening, notify, setState, useStore } from "../state/store";
import { isSynchronised, synchronise } from "../state/synchronise";
import { thumbnailOf } from "./thumbnails";

/** A photograph of the list. The server has it once it was opened; its work is kept when another one is opened. */
export interface PhotoItem {
  readonly id: number;
  readonly name: string;
  /** Tells its file from others; empty in projects. */
  readonly key: string;
  /** Null after a reload, and in projects: then the server must have it. */
  readonly file: Blob | null;
  readonly clip: Clip | null;
  /** The address of a small image. */
  readonly thumbnail: string | null;
  /** How many objects have prompts. */
  readonly objects: number;
  readonly done: boolean;
  /** The work on it when it was left. */
  readonly work: Project | null;
}

interface PhotoList {
  readonly items: readonly PhotoItem[];
  /** The id of the photograph that is shown or being opened. */
  readonly current: number | null;
}

export const usePhotos = create<PhotoList>(() => ({ items: [], current: null }));

let ids = 0;
let wishes = 0; // photographs that were asked for
let showing = 0; // those that began to open
let upload: Upload | null = null; // the one that runs

const change = (id: number, part: Partial<PhotoItem>) =>
  usePhotos.setState(({ items }) => ({ items: items.map((item) => (item.id === id ? { ...item, ...part } : item)) }));

export function currentPhoto(): PhotoItem | undefined {
  const { items, current } = usePhotos.getState();
  return items.find(({ id }) => id === current);
}

/** The photograph that can be clicked: the one before the current one while that is sent. */
function openPhoto(): PhotoItem | undefined {
  const { clip } = getState();
  return usePhotos.getState().items.find((item) => item.clip && item.clip.path === clip?.path);
}

/** Adds photographs to the list, in the order of their names, and opens the first of them. */
export async function addPhotos(files: readonly File[]): Promise<void> {
  const { limits } = getState();
  if (!limits) return notify("error", "The server has not answered yet. Add the photographs again when it has.");
  const known = (file: File) => usePhotos.getState().items.find(({ key }) => key === keyOf(file));
  const accepted = files.filter((file) => whyLeftOut(file, limits) === null);
  const sorted = [...accepted].sort((a, b) => pathOf(a).localeCompare(pathOf(b), undefined, { numeric: true }));
  for (const file of sorted) {
    const item = known(file);
    if (item) change(item.id, { file });
  }
  const added = sorted
    .filter((file) => !known(file))
    .map((file): PhotoItem => ({ ...BLANK, id: (ids += 1), name: file.name, key: keyOf(file), file }));
  usePhotos.setState(({ items }) => ({ items: [...items, ...added] }));
  const first = added[0] ?? (sorted[0] && known(sorted[0]));
  if (first) await showPhoto(first.id);
  void makeThumbnails(); // decoding other photographs would delay the first
  // Now, because opening a photograph removes older notices.
  if (files.length > accepted.length) notify("error", describeLeftOut(files, limits));
}

const MAX_NAMED = 40;

/** Names the files that are left out, with the reasons. */
function describeLeftOut(files: readonly File[], limits: Limits): string {
  const lines = files.flatMap((file) => {
    const reason = whyLeftOut(file, limits);
    return reason === null ? [] : [`“${pathOf(file)}”: ${reason}`];
  });
  const more = lines.length > MAX_NAMED ? [`and ${lines.length - MAX_NAMED} more`] : [];
  const [are, ofAll] = [lines.length === 1 ? "is" : "are", files.length > 1 ? ` of ${files.length} files` : " file"];
  return [`${lines.length}${ofAll} ${are} left out:`, ...lines.slice(0, MAX_NAMED), ...more].join("\n");
}

/** Adds photographs of a project, in place of the work on those that are in the list. */
export async function openSavedPhotos(
  saved: readonly { readonly name: string; readonly done: boolean; readonly work: Project }[],
): Promise<void> {
  keepWork();
  const items = saved.map(({ name, done, work }): PhotoItem => {
    const known = usePhotos.getState().items.find((item) => item.clip?.path === work.clip.path);
    const clip = { ...work.clip, name };
    const thumbnail = known?.thumbnail ?? clip.url;
    return {
      ...BLANK,
      ...known,
      id: known?.id ?? (ids += 1),
      name,
      done,
      clip,
      thumbnail,
      work,
      objects: countObjects(work.scene),
    };
  });
  const isKept = ({ id }: PhotoItem) => !items.some((item) => item.id === id);
  usePhotos.setState((list) => ({ items: [...list.items.filter(isKept), ...items], current: null }));
  joinClasses(saved.flatMap(({ work }) => work.scene.objects));
  await showPhoto(items[0]!.id);
}

const BLANK = { key: "", file: null, clip: null, thumbnail: null, objects: 0, done: false, work: null } as const;

function keyOf(file: File): string {
  return `${pathOf(file)} ${file.size} ${file.lastModified}`;
}

function pathOf(file: File): string {
  return file.webkitRelativePath || file.name;
}

/** Opens a photograph of the list, after the work on the present one is kept. */
export async function showPhoto(id: number): Promise<void> {
  const wish = (wishes += 1);
  const find = () => usePhotos.getState().items.find((entry) => entry.id === id);
  const wanted = find();
  if (!wanted || isShown(wanted)) return;
  // What is opening until then goes on: its clicks wait for it.
  if (currentPhoto() && (await haveClicksWaited()) && wish !== wishes) return;
  const turn = (showing += 1);
  if (upload?.id !== id) upload?.abort.abort();
  keepWork();
  const item = find() ?? wanted;
  const { current: before } = usePhotos.getState();
  usePhotos.setState({ current: id });
  setState({ dialog: null, notice: null, sending: "" });
  try {
    const isOpen = item.clip !== null && (await open(item.clip, item.work));
    if (isOpen || turn !== showing) return;
    if (!item.file) return notifyMissing(item.name);
    const clip = await send(item, item.file);
    if (turn === showing && openPhoto()) await synchronise(); // clicks that were made meanwhile
    if (turn !== showing) return;
    keepWork();
    await open(clip, currentPhoto()?.work ?? null);
    notifyCopies();
  } catch (error) {
    if (turn !== showing) return;
    const { failure, message } = asApiError(error);
    // The photograph that was open stays so. A file that was refused leaves the list.
    const isKept = (other: PhotoItem) => other.id !== id || failure !== "refused";
    usePhotos.setState(({ items }) => ({ items: items.filter(isKept), current: openPhoto()?.id ?? before }));
    setState({ phase: getState().session ? "ready" : "failed" });
    notify("error", `“${item.name}” cannot be opened: ${message}`);
  }
}

/** Whether it is shown, being opened or being sent; one that could not be opened is not. */
function isShown({ id, clip }: PhotoItem): boolean {
  const { clip: open, phase, sending } = getState();
  const isOpen = open?.path === clip?.path && phase !== "failed";
  return id === usePhotos.getState().current && (isOpen || sending !== "");
}

function notifyMissing(name: string): void {
  if (!getState().connected) return; // the banner reports it
  const advice = `If the server does not have it any more, add it again by “Add photographs”; its masks are kept.`;
  notify("error", `“${name}” cannot be opened: ${getState().problem} ${advice}`);
}

/** Waits for the masks of clicks, unless the server does not answer; returns whether there were any to wait for. */
async function haveClicksWaited(): Promise<boolean> {
  const isEarly = () => isOpening(getState()) && getState().early.length > 0 && getState().connected;
  if (!isEarly() && (isOpening(getState()) || isSynchronised())) return false;
  if (isEarly()) {
    await new Promise<void>((resolve) => {
      const stop = useStore.subscribe(() => {
        if (isEarly()) return;
        stop();
        resolve();
      });
    });
  }
  await synchronise();
  return true;
}

async function open(clip: Clip, work: Project | null): Promise<boolean> {
  return openClip(clip, work ?? undefined);
}

interface Upload {
  readonly id: number;
  readonly abort: AbortController;
  readonly clip: Promise<Clip>;
}

/** Waits until the server has a photograph that the user wants to see. */
async function send(item: PhotoItem, file: Blob): Promise<Clip> {
  // What is open can be clicked until then.
  setState({ sending: describeSending(item), ...(!getState().session && { phase: "opening" as const }) });
  upload = upload?.id === item.id ? upload : begin(item, file);
  return upload.clip.finally(() => {
    if (usePhotos.getState().current === item.id) setState({ sending: "" });
  });
}

function describeSending({ id, name }: PhotoItem): string {
  const { items } = usePhotos.getState();
  const place = items.findIndex((item) => item.id === id) + 1;
  return `Sending ${name}${items.length > 1 ? `, ${place} of ${items.length}` : ""}`;
}

/** Begins to upload a photograph. */
function begin(item: PhotoItem, file: Blob): Upload {
  const { id, name } = item;
  const abort = new AbortController();
  const progress: UploadProgress = (doing, share) => {
    if (usePhotos.getState().current !== id) return; // it is sent ahead
    const what = doing === "uploading" ? describeSending(item) : `Reading ${name}`;
    setState({ sending: share > 0 ? `${what}: ${Math.floor(100 * share)} %` : `${what} …` });
  };
  const named = file instanceof File ? file : new File([file], name);
  const clip = saveNow()
    .then(() => uploadVideo(named, null, progress, abort.signal))
    .then((sent) => keepClip(id, { ...sent, name }))
    .finally(() => {
      if (upload?.id === id) upload = null;
    });
  return { id, abort, clip };
}

/** The photograph of the list is on the server. The same one may be in the list, from a project or by another name. */
function keepClip(id: number, clip: Clip): Clip {
  const { items, current } = usePhotos.getState();
  const same = items.find((other) => other.id !== id && other.clip?.path === clip.path);
  if (same) {
    usePhotos.setState({
      items: items.filter((item) => item.id !== same.id),
      current: current === same.id ? id : current,
    });
    if (same.name !== clip.name)
      copies = `“${same.name}” and “${clip.name}” are the same photograph: the list has it once.`;
    if (current !== id) notifyCopies(); // it was sent ahead
  }
  const thumbnail = items.find((other) => other.id === id)?.thumbnail || clip.poster;
  change(id, {
    clip,
    ...(clip.poster && { thumbnail }),
    ...(same && { work: same.work, done: same.done, objects: same.objects }),
  });
  return clip;
}

let copies = ""; // what is said of them once a photograph is open, because opening removes older notices

function notifyCopies(): void {
  if (copies) notify("info", copies);
  copies = "";
}

/** Sends and encodes the next photograph while one works on this one. Opening it reports what goes wrong. */
async function prepareNext(): Promise<void> {
  const next = photoAfter(1);
  if (!next || upload || prepared === next.id) return;
  prepared = next.id;
  try {
    if (!next.clip && next.file) upload = begin(next, next.file);
    const clip = next.clip ?? (await upload?.clip);
    if (clip) await preparePhoto(clip.path);
  } catch (error) {
    // A refused file is not sent again with each click.
    if (asApiError(error).failure !== "refused" || (error as Error).name === "AbortError") prepared = null;
  }
}

let prepared: number | null = null; // the id of the photograph

/** Removes all photographs but the open one from the list. The work on each stays saved in the browser. */
export function emptyList(): void {
  const kept = currentPhoto();
  usePhotos.setState({ items: kept ? [kept] : [] });
}

/** Shows the list of an earlier visit. */
export function restoreList(items: readonly PhotoItem[]): void {
  usePhotos.setState({ items: items.map((item) => ({ ...item, id: (ids += 1) })) }); // tabs number their own
}

/** Opens the next photograph, or the previous one. */
export function stepPhoto(step: 1 | -1): void {
  const { items } = usePhotos.getState();
  const next = photoAfter(step);
  if (next) void showPhoto(next.id);
  else if (items.length > 1) announce(step > 0 ? "This is the last photograph." : "This is the first photograph.");
}

/** The photograph at some distance from the current one in the list. */
export function photoAfter(step: number): PhotoItem | undefined {
  const { items, current } = usePhotos.getState();
  return items[items.findIndex(({ id }) => id === current) + step];
}

/** Marks the photograph as done and opens the next one that is not, or takes the mark back. */
export function toggleDone(): void {
  const item = openPhoto();
  if (!item) return;
  change(item.id, { done: !item.done });
  announce(item.done ? `${item.name} is not done.` : `${item.name} is done.`);
  const { items } = usePhotos.getState();
  const next = items.slice(items.findIndex(({ id }) => id === item.id) + 1).find(({ done }) => !done);
  if (!item.done && next) void showPhoto(next.id);
}

/** The work on a photograph: of the page if it is open, otherwise as it was left or saved. */
export async function workOn(item: PhotoItem): Promise<Project | null> {
  if (item.clip?.path === getState().clip?.path) return makeProject(getState());
  return item.work ?? (item.clip && loadProject(item.clip.path));
}

/** Keeps the work on the open photograph in the list. */
function keepWork(): void {
  const item = openPhoto();
  const project = makeProject(getState());
  if (!item || !project) return;
  const work = withHistory(project, getState().history);
  change(item.id, { work, objects: countObjects(work.scene) });
}

export function countObjects({ objects }: Scene): number {
  return objects.filter(({ prompts }) => Object.keys(prompts).length > 0).length;
}

/** The list follows what is opened elsewhere, and counts the objects. */
export function watchPhotos(): () => void {
  return useStore.subscribe((state, before) => {
    const { clip } = state;
    if (!clip || !isPhoto(clip)) return;
    const { items } = usePhotos.getState();
    const item = items.find((entry) => entry.clip?.path === clip.path);
    if (clip.path !== before.clip?.path) {
      if (item) usePhotos.setState({ current: item.id });
      else addOpened(clip);
    } else if (item && state.scene !== before.scene) {
      change(item.id, { objects: countObjects(state.scene) });
    }
    if (before.pending && !state.pending && state.phase === "ready") void prepareNext();
  });
}

function addOpened(clip: Clip): void {
  const item: PhotoItem = { ...BLANK, id: (ids += 1), name: clip.name, clip, thumbnail: clip.poster ?? clip.url };
  usePhotos.setState(({ items }) => ({ items: [...items, item], current: item.id }));
}

let making: Promise<void> | null = null;

function makeThumbnails(): Promise<void> {
  making ??= (async () => {
    for (;;) {
      const item = usePhotos.getState().items.find((entry) => entry.file && entry.thumbnail === null);
      if (!item) break;
      change(item.id, { thumbnail: await thumbnailOf(item.file!) });
    }
    making = null;
  })();
  return making;
}
