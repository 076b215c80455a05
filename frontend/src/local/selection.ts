/** SAM 2's rule for the memories that a frame attends to, as in `sam2fast/modeling/memory_selection.py`. */

export interface SelectionRules {
  readonly num_maskmem: number;
  /** Between the older of the recent frames. */
  readonly stride: number;
  /** -1 for no limit. */
  readonly max_conditioning: number;
  readonly use_pointers: boolean;
  readonly max_pointers: number;
  readonly only_past_pointers: boolean;
  readonly signed_distances: boolean;
}

/** Frames attended to, conditioning frames first. */
export interface Selection {
  /** Frame, and row of the model's table of times. */
  readonly memories: readonly (readonly [frame: number, row: number])[];
  /** Frame, and distance in frames. */
  readonly pointers: readonly (readonly [frame: number, distance: number])[];
}

interface Frames {
  has(frame: number): boolean;
  keys(): Iterable<number>;
}

/**
 * What one object attends to on a frame.
 *
 * @param conditioning frames with a memory from the user's prompts; at least one
 * @param tracked other frames with a memory
 */
export function selectMemories(
  frame: number,
  conditioning: Frames,
  tracked: Frames,
  numFrames: number,
  reverse: boolean,
  rules: SelectionRules,
): Selection {
  const chosen = closestConditioning(frame, [...conditioning.keys()], rules.max_conditioning);
  // A conditioning frame that was not chosen counts as a tracked one.
  const isOther = (other: number) => tracked.has(other) || (conditioning.has(other) && !chosen.includes(other));

  const memories = chosen.map((prompted) => [prompted, rules.num_maskmem - 1] as const);
  recentFrames(frame, reverse, rules).forEach((recent, row) => {
    if (isOther(recent)) memories.splice(chosen.length, 0, [recent, row]); // the oldest first
  });

  const pointers: (readonly [number, number])[] = [];
  if (rules.use_pointers) {
    const forward = reverse ? -1 : 1;
    for (const prompted of chosen) {
      const distance = (frame - prompted) * forward;
      if (distance < 0 && rules.only_past_pointers) continue;
      pointers.push([prompted, rules.signed_distances ? distance : Math.abs(distance)]);
    }
    for (let distance = 1; distance < Math.min(numFrames, rules.max_pointers); distance += 1) {
      const other = frame - distance * forward;
      if (isOther(other)) pointers.push([other, distance]);
    }
  }
  return { memories, pointers };
}

/** At most `limit` frames: the nearest before, the nearest from `frame` on, then by distance. */
function closestConditioning(frame: number, conditioning: number[], limit: number): number[] {
  if (limit === -1 || conditioning.length <= limit) return conditioning;
  const before = conditioning.filter((other) => other < frame);
  const after = conditioning.filter((other) => other >= frame);
  const chosen: number[] = [];
  if (before.length > 0) chosen.push(Math.max(...before));
  if (after.length > 0) chosen.push(Math.min(...after));
  const others = conditioning.filter((other) => !chosen.includes(other));
  others.sort((a, b) => Math.abs(a - frame) - Math.abs(b - frame));
  return [...chosen, ...others.slice(0, limit - chosen.length)];
}

/** The ordinary frames that may be attended to: the neighbour, then multiples of the stride, the nearest first. */
function recentFrames(frame: number, reverse: boolean, { stride, num_maskmem }: SelectionRules): number[] {
  const forward = reverse ? -1 : 1;
  const first = reverse ? Math.ceil((frame + 2) / stride) * stride : Math.floor((frame - 2) / stride) * stride;
  const older = Array.from({ length: num_maskmem }, (_, step) => first - forward * step * stride);
  return [frame - forward, ...older].slice(0, num_maskmem - 1);
}
