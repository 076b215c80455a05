import { create } from "zustand";
import { asApiError } from "../api/errors";
import { withJob } from "../api/jobs";
import { findEverything, type Proposal } from "../api/rest";
import { promptKey, withAnswer } from "../masks/masks";
import { maskArea, maskHas, maskOf, paintMask, type Mask } from "../masks/rle";
import type { Spot } from "../scene/geometry";
import { addObject, firstPromptedFrame, labelObject, NO_PROMPT, promptAt, setPrompt } from "../scene/scene";
import * as editing from "../state/editing";
import { handleFailure } from "../state/failures";
import { announce, getState, notify, useStore } from "../state/store";
import { useCandidates } from "./candidates";

/** A mask that was found without a click, to be accepted, merged with others, or dropped. */
export interface Candidate extends Proposal {
  readonly id: number;
  readonly area: number;
  readonly isChosen: boolean;
}

interface Everything {
  /** The largest first; null while none are offered. */
  candidates: readonly Candidate[] | null;
  /** What is done of the search, 0 to 1; null while nothing is looked for. */
  share: number | null;
  /** The id of the candidate under the pointer, or with the focus. */
  highlighted: number | null;
}

const NOTHING: Everything = { candidates: null, share: null, highlighted: null };
const MAX_OBJECTS = 32;

export const useEverything = create<Everything>(() => NOTHING);

let abort: AbortController | null = null;

/** Looks for all that is seen in the photograph, or ends the search that runs. */
export function toggleEverything(): void {
  if (useEverything.getState().share === null) return void lookForEverything();
  abort?.abort();
  announce("The search is cancelled.");
}

async function lookForEverything(): Promise<void> {
  const { session, phase, limits } = getState();
  if (!session || phase !== "ready") return;
  if (limits?.lacks?.includes("everything")) {
    return notify("info", "“Everything here” needs sam2fast serve: this page has no server.");
  }
  announce("Looking for everything in the photograph.");
  await offer((job, signal) => findEverything(session.id, job, signal), "Nothing was found without a click.");
}

/**
 * Offers the masks of a search in the open photograph.
 *
 * @param search see `withJob`
 * @param nothing what is said if there are none
 */
export async function offer(
  search: (job: string, signal: AbortSignal) => Promise<Proposal[]>,
  nothing: string,
): Promise<void> {
  const { session } = getState();
  const { signal } = (abort = new AbortController());
  const progress = (share: number) => useEverything.setState({ share });
  useEverything.setState({ ...NOTHING, share: 0 });
  try {
    const found = await withJob((job) => search(job, signal), progress, signal);
    if (signal.aborted) return; // just now
    const candidates = found.map((mask, id) => ({ ...mask, id, area: maskArea(mask), isChosen: false }));
    useEverything.setState({ candidates: candidates.length > 0 ? candidates : null });
    useCandidates.setState({ offer: null }); // masks of a click
    if (candidates.length === 0) notify("info", nothing);
    else announce(`${candidates.length} candidates. Choose those that you want.`);
  } catch (error) {
    if (signal.aborted) return;
    if (asApiError(error).failure === "refused") notify("error", asApiError(error).message);
    else handleFailure(error, session);
  } finally {
    if (abort?.signal === signal) useEverything.setState({ share: null });
  }
}

export function toggleCandidate(id: number): void {
  useEverything.setState(({ candidates }) => ({
    candidates: candidates?.map((one) => (one.id === id ? { ...one, isChosen: !one.isChosen } : one)) ?? null,
  }));
}

export function chooseAll(isChosen: boolean): void {
  useEverything.setState(({ candidates }) => ({
    candidates: candidates?.map((one) => ({ ...one, isChosen })) ?? null,
  }));
}

/** The smallest candidate at a spot; null if there is none. */
export function candidateAt({ x, y }: Spot): Candidate | null {
  const { candidates } = useEverything.getState();
  const isThere = (mask: Mask) => maskHas(mask, Math.floor(x * mask.width), Math.floor(y * mask.height));
  return candidates?.filter(isThere).at(-1) ?? null;
}

export function isChoosing(): boolean {
  return useEverything.getState().candidates !== null;
}

/** While candidates are offered, a click chooses one, or none. Returns false if it is a click as others. */
export function chooseAt(spot: Spot): boolean {
  if (!isChoosing()) return false;
  const found = candidateAt(spot);
  if (found) toggleCandidate(found.id);
  return true;
}

export function closeCandidates(): void {
  useEverything.setState(NOTHING);
}

export function dropChosen(): void {
  const { candidates } = useEverything.getState();
  keep(candidates?.filter(({ isChosen }) => !isChosen) ?? []);
}

export function chosenCandidates(): Candidate[] {
  return (useEverything.getState().candidates ?? []).filter(({ isChosen }) => isChosen);
}

/** Makes objects of a class, or of none for "", of the chosen candidates: one of each, or one of all. */
export function acceptChosen(isMerged: boolean, label = ""): void {
  const chosen = chosenCandidates();
  if (chosen.length === 0) return;
  const masks = isMerged ? [united(chosen)] : chosen;
  let { scene, masks: shown } = getState();
  if (firstPromptedFrame(scene) === null) scene = { objects: [] }; // without the empty object of a new photograph
  const most = getState().limits?.maxObjects ?? MAX_OBJECTS;
  if (scene.objects.length + masks.length > most) {
    return notify("error", `A photograph may have ${most} objects. Choose fewer candidates, or remove objects.`);
  }
  for (const { height, width, counts } of masks) {
    scene = addObject(scene);
    const { id } = scene.objects.at(-1)!;
    const mask = { height, width, counts };
    if (label) scene = labelObject(scene, id, label);
    scene = setPrompt(scene, id, 0, { ...NO_PROMPT, mask });
    shown = withAnswer(shown, 0, id, mask, promptKey(promptAt(scene.objects.at(-1), 0)));
  }
  editing.replaceAll(scene, shown);
  announce(`${masks.length} ${masks.length === 1 ? "object" : "objects"} added.`);
  dropChosen();
}

function keep(candidates: readonly Candidate[]): void {
  if (candidates.length > 0) useEverything.setState({ candidates, highlighted: null });
  else closeCandidates();
}

function united(masks: readonly Mask[]): Mask {
  const { height, width } = masks[0]!;
  const pixels = new Uint32Array(height * width);
  for (const mask of masks) paintMask(mask, pixels, 1);
  return maskOf(pixels, { height, width });
}

useStore.subscribe((state, before) => {
  if (state.session === before.session) return;
  abort?.abort();
  closeCandidates();
});
