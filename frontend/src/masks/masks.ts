import { maskArea, type Mask } from "./rle";

/** The masks of a video by frame and object. They are immutable: every change returns new ones. */
export type Masks = ReadonlyMap<number, FrameEntries>;
export type FrameEntries = ReadonlyMap<number, MaskEntry>;

/** What the model says of a tracked mask. */
export interface Scores {
  /** Predicted IoU. */
  readonly iou: number;
  /** Logit of the object's presence on the frame. */
  readonly presence: number;
}

export interface TrackedMask extends Mask {
  readonly scores?: Scores;
}

export interface MaskEntry extends TrackedMask {
  /** Number of pixels inside. */
  readonly area: number;
  /** `promptKey` of the object's prompts that the mask was tracked from; null if it was not tracked. */
  readonly trackedFrom: string | null;
  /** `promptKey` of the prompt on this frame that the mask answers; null if there was none. */
  readonly answerTo: string | null;
}

export interface FrameMasks {
  readonly frame: number;
  readonly masks: ReadonlyMap<number, TrackedMask>;
}

export const NO_MASKS: Masks = new Map();
const NO_ENTRIES: FrameEntries = new Map();

export function masksAt(masks: Masks, frame: number): FrameEntries {
  return masks.get(frame) ?? NO_ENTRIES;
}

/** Identifies prompts by their content. */
export function promptKey(prompts: object): string {
  return JSON.stringify(prompts);
}

/** The masks of a YouTube-VIS file that this page has made. */
export function readVideoMasks(file: unknown): Masks {
  const { annotations } = file as {
    annotations: { object: number; segmentations: ({ size: [number, number]; counts: string } | null)[] }[];
  };
  let masks = NO_MASKS;
  for (const { object, segmentations } of annotations) {
    segmentations.forEach((found, frame) => {
      if (!found) return;
      const mask = { height: found.size[0], width: found.size[1], counts: found.counts };
      masks = withAnswer(masks, frame, object, mask, "");
    });
  }
  return masks;
}

/** Stores the mask that answers a prompt. */
export function withAnswer(masks: Masks, frame: number, id: number, mask: Mask, answerTo: string): Masks {
  const trackedFrom = masksAt(masks, frame).get(id)?.trackedFrom ?? null;
  return withEntry(masks, frame, id, { ...mask, area: maskArea(mask), trackedFrom, answerTo });
}

/**
 * Stores a tracked frame. The masks of prompts on the frame stay as they are: tracking starts from them.
 *
 * @param sources by object: `promptKey` of all its prompts, and of that on the frame
 */
export function withTracked(
  masks: Masks,
  { frame, masks: found }: FrameMasks,
  sources: ReadonlyMap<number, { all: string; here: string | null }>,
): Masks {
  for (const [id, mask] of found) {
    const source = sources.get(id);
    if (!source) continue; // the object was removed meanwhile
    const before = masksAt(masks, frame).get(id);
    const kept = source.here !== null && before?.answerTo === source.here ? before : mask;
    const entry = { height: kept.height, width: kept.width, counts: kept.counts };
    masks = withEntry(masks, frame, id, {
      ...entry,
      area: maskArea(entry),
      trackedFrom: source.all,
      answerTo: source.here,
      ...(mask.scores && { scores: mask.scores }),
    });
  }
  return masks;
}

/** Removes an object's mask on one frame. */
export function withoutMask(masks: Masks, frame: number, id: number): Masks {
  return masksAt(masks, frame).has(id) ? withEntry(masks, frame, id, undefined) : masks;
}

/** The masks of `chosen` objects from `theirs`, those of all others from `ours`. */
export function mergeMasks(ours: Masks, theirs: Masks, chosen: ReadonlySet<number>): Masks {
  const merged = new Map<number, FrameEntries>();
  for (const frame of new Set([...ours.keys(), ...theirs.keys()])) {
    const entries = new Map([...masksAt(ours, frame)].filter(([id]) => !chosen.has(id)));
    for (const [id, entry] of masksAt(theirs, frame)) if (chosen.has(id)) entries.set(id, entry);
    if (entries.size > 0) merged.set(frame, entries);
  }
  return merged;
}

/** What is known of an object on a frame. `Stale` is added if its prompts have changed since. */
export const Seen = { Unknown: 0, Hidden: 1, Visible: 2, Stale: 4 } as const;

/** For each frame, whether an object is seen there. @param key `promptKey` of the object's prompts */
export function visibility(masks: Masks, id: number, numFrames: number, key: string): Uint8Array {
  const seen = new Uint8Array(numFrames);
  for (const [frame, entries] of masks) {
    const entry = entries.get(id);
    if (!entry || frame >= numFrames || (entry.area === 0 && entry.trackedFrom === null)) continue;
    seen[frame] = (entry.area > 0 ? Seen.Visible : Seen.Hidden) + (isStale(entry, key) ? Seen.Stale : 0);
  }
  return seen;
}

/** Whether a tracked mask follows from other prompts than the object's; one that answers a prompt never does. */
function isStale({ trackedFrom, answerTo }: MaskEntry, key: string): boolean {
  return answerTo === null && trackedFrom !== key;
}

function withEntry(masks: Masks, frame: number, id: number, entry: MaskEntry | undefined): Masks {
  const entries = new Map(masksAt(masks, frame));
  if (entry) entries.set(id, entry);
  else entries.delete(id);
  const changed = new Map(masks);
  if (entries.size > 0) changed.set(frame, entries);
  else changed.delete(frame);
  return changed;
}
