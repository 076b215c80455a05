import { maskArea, type Mask } from "./rle";

export interface MaskEntry extends Mask {
  /** Number of pixels inside. */
  readonly area: number;
  /** Whether the frame was tracked for the object, so that an empty mask means hidden. */
  readonly isTracked: boolean;
}

export interface FrameMasks {
  readonly frame: number;
  readonly masks: ReadonlyMap<number, Mask>;
}

/** The latest masks by frame and object. It changes in place; `masksVersion` of the store counts the changes. */
export class MaskStore {
  private readonly frames = new Map<number, Map<number, MaskEntry>>();

  /** Stores the answer to a click. It has every object, with an empty mask for those without results on the frame. */
  set(answer: FrameMasks): void {
    this.replace(answer, false);
  }

  /** Stores a tracked frame. */
  setTracked(answer: FrameMasks): void {
    this.replace(answer, true);
  }

  private replace({ frame, masks }: FrameMasks, byTracking: boolean): void {
    const before = this.at(frame);
    const entries = new Map<number, MaskEntry>();
    for (const [id, mask] of masks) {
      const area = maskArea(mask);
      const isTracked = byTracking || before.get(id)?.isTracked === true;
      if (area > 0 || isTracked) entries.set(id, { ...mask, area, isTracked });
    }
    if (entries.size > 0) this.frames.set(frame, entries);
    else this.frames.delete(frame);
  }

  at(frame: number): ReadonlyMap<number, MaskEntry> {
    return this.frames.get(frame) ?? NOTHING;
  }

  removeObject(id: number): void {
    for (const [frame, entries] of this.frames) {
      entries.delete(id);
      if (entries.size === 0) this.frames.delete(frame);
    }
  }

  clear(): void {
    this.frames.clear();
  }

  get size(): number {
    return this.frames.size;
  }

  /** For each frame: whether the object is seen (1), hidden (0), or the frame is not tracked (-1). */
  visibility(id: number, numFrames: number): Int8Array {
    const seen = new Int8Array(numFrames).fill(-1);
    for (const [frame, entries] of this.frames) {
      const entry = entries.get(id);
      if (entry && frame < numFrames) seen[frame] = entry.area > 0 ? 1 : 0;
    }
    return seen;
  }
}

const NOTHING: ReadonlyMap<number, MaskEntry> = new Map();
