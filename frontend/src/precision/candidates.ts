import { create } from "zustand";
import { previewMasks, type Proposal } from "../api/rest";
import { masksAt } from "../masks/masks";
import { findObject, promptAt, type Prompt } from "../scene/scene";
import { encodePrompt } from "../state/commands";
import { setAnswer } from "../state/editing";
import { announce, getState, useStore } from "../state/store";

/** The masks that SAM 2 proposes for a first click. */
interface Candidates {
  readonly object: number;
  readonly frame: number;
  readonly masks: readonly Proposal[];
}

export const useCandidates = create<{ offer: Candidates | null }>(() => ({ offer: null }));

/** Requests the masks for the active object's first click; they are offered until it gets another prompt. */
async function offerCandidates(): Promise<void> {
  const { session, active: object, frame, scene } = getState();
  const prompt = promptAt(findObject(scene, object), frame);
  const { offer } = useCandidates.getState();
  if (offer?.object === object && offer.frame === frame) return;
  if (!session || !isFirstClick(prompt) || prompt.candidate !== undefined) return;
  try {
    const clicks = { objectId: object, frameIndex: frame, ...encodePrompt(prompt), refine: false };
    const masks = await previewMasks(session.id, clicks);
    const now = getState();
    const isCurrent = now.session === session && promptAt(findObject(now.scene, object), frame) === prompt;
    if (masks.length > 1 && isCurrent) useCandidates.setState({ offer: { object, frame, masks } });
  } catch {
    // The click has its mask; the others are an offer.
  }
}

function isFirstClick({ points, box, mask }: Prompt): boolean {
  return points.length === 1 && points[0]!.positive && !box && !mask;
}

/** Makes a candidate the object's mask on the frame, from which it is tracked. */
export function chooseCandidate(place: number): void {
  const { offer } = useCandidates.getState();
  const mask = offer?.masks[place];
  if (!offer || !mask) return;
  const { object, frame, masks } = offer;
  const prompt = promptAt(findObject(getState().scene, object), frame);
  const { height, width, counts, iou } = mask;
  setAnswer(object, frame, { ...prompt, candidate: place }, { height, width, counts });
  announce(`Mask ${place + 1} of ${masks.length}, predicted quality ${percent(iou)}.`);
}

/** Chooses the next candidate, or the previous one. */
export function cycleCandidates(step: 1 | -1): void {
  const { offer } = useCandidates.getState();
  const { active, frame } = getState();
  if (!offer || offer.object !== active || offer.frame !== frame) return;
  const { length } = offer.masks;
  chooseCandidate((chosenPlace(offer) + step + length) % length);
}

/** The place of the candidate that is the object's mask; -1 if it has another one. */
export function chosenPlace({ object, frame, masks }: Candidates): number {
  const mask = masksAt(getState().masks, frame).get(object);
  return masks.findIndex(({ counts }) => counts === mask?.counts);
}

export function percent(share: number): string {
  return `${Math.round(100 * Math.min(1, Math.max(0, share)))} percent`;
}

useStore.subscribe((state, before) => {
  if (state.scene !== before.scene || state.session !== before.session) {
    const { offer } = useCandidates.getState();
    const isStale = offer && !isFirstClick(promptAt(findObject(state.scene, offer.object), offer.frame));
    if (isStale || state.session !== before.session) useCandidates.setState({ offer: null });
  }
  if (before.pending && !state.pending) void offerCandidates();
});
