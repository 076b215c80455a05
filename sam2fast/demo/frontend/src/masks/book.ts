import { maskArea, type Mask } from "./rle";

export interface MaskEntry extends Mask {
  /** Pixels inside. */
  readonly area: number;
}

export interface FrameMasks {
  readonly frame: number;
  readonly masks: ReadonlyMap<number, Mask>;
}

/** The newest masks of every frame, by frame and object. Changes in place; whoever shows it counts its changes. */
export class MaskBook {
  private readonly frames = new Map<number, Map<number, MaskEntry>>();

  /** Takes an answer of the server, which always has every object of the frame. */
  set({ frame, masks }: FrameMasks): void {
    const entries = new Map<number, MaskEntry>();
    for (const [id, mask] of masks) entries.set(id, { ...mask, area: maskArea(mask) });
    this.frames.set(frame, entries);
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

  /** For each frame of the video: is the object seen (1), known to be hidden (0), or not tracked (-1)? */
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
