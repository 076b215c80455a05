import { maskArea, type Mask } from "./rle";

export interface MaskEntry extends Mask {
  /** Pixels inside. */
  readonly area: number;
  /** Whether tracking has looked for the object here, so that an empty mask means that it is hidden. */
  readonly isTracked: boolean;
}

export interface FrameMasks {
  readonly frame: number;
  readonly masks: ReadonlyMap<number, Mask>;
}

/** The newest masks of every frame, by frame and object. Changes in place; whoever shows it counts its changes. */
export class MaskBook {
  private readonly frames = new Map<number, Map<number, MaskEntry>>();

  /** Takes the answer to a click, which has every object: an empty mask for those never looked for on the frame. */
  set(answer: FrameMasks): void {
    this.replace(answer, false);
  }

  /** Takes a frame of a track. */
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

  /** For each frame of the video: is the object seen (1), hidden where it was tracked (0), or unknown (-1)? */
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
