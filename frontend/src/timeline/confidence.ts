import type { MaskEntry, Masks, Scores } from "../masks/masks";

/** How sure the model is of a tracked mask, or of the object's absence: 0 to 1. */
export function confidenceOf({ iou, presence }: Scores): number {
  const isThere = 1 / (1 + Math.exp(-presence));
  return presence > 0 ? Math.min(1, Math.max(0, iou)) * isThere : 1 - isThere;
}

export interface Weakest {
  readonly object: number;
  readonly confidence: number;
}

/** The least sure mask of each frame; null where none was tracked. Masks that the user gave count as sure. */
export function weakestByFrame(masks: Masks, numFrames: number): (Weakest | null)[] {
  return Array.from({ length: numFrames }, (_, frame) => {
    let weakest: Weakest | null = null;
    for (const [object, entry] of masks.get(frame) ?? []) {
      const confidence = confidenceIn(entry);
      if (confidence !== null && (!weakest || confidence < weakest.confidence)) weakest = { object, confidence };
    }
    return weakest;
  });
}

function confidenceIn({ scores, trackedFrom, answerTo }: MaskEntry): number | null {
  if (answerTo !== null) return trackedFrom === null ? null : 1;
  return scores ? confidenceOf(scores) : null;
}

const NEIGHBOURS = 1 / 24; // of the video: frames so near to a weaker one are not listed

/** Frames from the weakest on, each some distance from the weaker ones. */
export function weakestFrames(found: readonly (Weakest | null)[]): number[] {
  const distance = Math.ceil(found.length * NEIGHBOURS);
  const order = found
    .flatMap((weakest, frame) => (weakest ? [{ frame, confidence: weakest.confidence }] : []))
    .sort((a, b) => a.confidence - b.confidence);
  const chosen: number[] = [];
  for (const { frame } of order) {
    if (chosen.every((other) => Math.abs(other - frame) > distance)) chosen.push(frame);
  }
  return chosen;
}
