import type { FrameEntries, MaskEntry } from "../masks/masks";
import type { Scene } from "../scene/scene";
import type { History } from "../state/history";
import type { Step } from "../state/store";

/** Undo and redo as they are saved in the browser. Steps share most masks: each one is saved once. */
export interface SavedHistory {
  readonly entries: readonly MaskEntry[];
  readonly past: readonly SavedStep[];
  readonly future: readonly SavedStep[];
}

interface SavedStep {
  readonly scene: Scene;
  /** Frame, object, and the place in `entries`. */
  readonly masks: readonly (readonly [frame: number, object: number, entry: number])[];
}

const MAX_STEPS = 50; // in each direction
const MAX_SIZE = 4_000_000; // characters of masks

/** The steps that are nearest to the present, as many as there is room for. */
export function saveHistory({ past, future }: History<Step>): SavedHistory {
  const places = new Map<MaskEntry, number>();
  let size = 0;
  const save = (steps: readonly Step[]) => {
    const saved: SavedStep[] = [];
    for (const { scene, masks } of steps.slice(0, MAX_STEPS)) {
      const kept = [...masks].flatMap(([frame, entries]) =>
        [...entries].map(([object, entry]) => {
          if (!places.has(entry)) {
            places.set(entry, places.size);
            size += entry.counts.length;
          }
          return [frame, object, places.get(entry)!] as const;
        }),
      );
      if (size > MAX_SIZE) break;
      saved.push({ scene, masks: kept });
    }
    return saved;
  };
  const saved = { past: save([...past].reverse()).reverse(), future: save(future) };
  return { entries: [...places.keys()], ...saved };
}

export function readHistory({ entries, past, future }: SavedHistory): History<Step> {
  const read = ({ scene, masks }: SavedStep): Step => {
    const found = new Map<number, Map<number, MaskEntry>>();
    for (const [frame, object, place] of masks) {
      const on = found.get(frame) ?? new Map<number, MaskEntry>();
      found.set(frame, on.set(object, entries[place]!));
    }
    return { scene, masks: found satisfies ReadonlyMap<number, FrameEntries> };
  };
  return { past: past.map(read), future: future.map(read) };
}
