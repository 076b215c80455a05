export interface Span {
  readonly start: number;
  readonly end: number; // exclusive
  readonly state: "seen" | "hidden";
}

/** Runs of frames in which an object is seen (1) or known to be hidden (0); frames that are not tracked (-1) are gaps. */
export function findSpans(visibility: Int8Array): Span[] {
  const spans: Span[] = [];
  let start = 0;
  for (let frame = 1; frame <= visibility.length; frame += 1) {
    if (frame < visibility.length && visibility[frame] === visibility[start]) continue;
    if (visibility[start]! >= 0) spans.push({ start, end: frame, state: visibility[start] ? "seen" : "hidden" });
    start = frame;
  }
  return spans;
}
