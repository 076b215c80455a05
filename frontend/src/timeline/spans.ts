import { Seen } from "../masks/masks";

export interface Span {
  readonly start: number;
  readonly end: number; // exclusive
  readonly state: "seen" | "hidden";
  readonly isStale: boolean;
}

/** Runs of frames of one kind; frames that are not tracked are gaps. @param visibility from `visibility` */
export function findSpans(visibility: Uint8Array): Span[] {
  const spans: Span[] = [];
  let start = 0;
  for (let frame = 1; frame <= visibility.length; frame += 1) {
    if (frame < visibility.length && visibility[frame] === visibility[start]) continue;
    const kind = visibility[start]!;
    const isStale = kind >= Seen.Stale;
    const state = kind % Seen.Stale === Seen.Visible ? "seen" : "hidden";
    if (kind !== Seen.Unknown) spans.push({ start, end: frame, state, isStale });
    start = frame;
  }
  return spans;
}
