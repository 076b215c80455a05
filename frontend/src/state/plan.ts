import type { Track } from "../api/propagate";
import { promptKey, visibility, Seen, type MaskEntry, type Masks } from "../masks/masks";
import { firstPromptedFrame, promptedFrames, type Scene } from "../scene/scene";

export const EXTENTS = ["all", "forward", "backward", "range"] as const;
export type Extent = (typeof EXTENTS)[number];

/** What tracking is to cover. */
export interface Plan {
  readonly extent: Extent;
  /** First and last frame of the extent `range`. */
  readonly first: number;
  readonly last: number;
  /** Only objects whose masks are missing or stale there. */
  readonly onlyChanged: boolean;
}

export const WHOLE_VIDEO: Plan = { extent: "all", first: 0, last: 0, onlyChanged: false };

/** The request for a plan; null if there is nothing to track. */
export function makeTrack(plan: Plan, scene: Scene, masks: Masks, frame: number, numFrames: number): Track | null {
  const start = firstPromptedFrame(scene);
  if (start === null) return null;
  const last = numFrames - 1;
  const [first, end] = {
    all: [0, last],
    forward: [frame, last],
    backward: [0, frame],
    range: [Math.min(plan.first, last), Math.min(Math.max(plan.first, plan.last), last)],
  }[plan.extent] as [number, number];
  const objects = scene.objects.filter((object) => {
    if (promptedFrames(object).length === 0) return false;
    const seen = visibility(masks, object.id, numFrames, promptKey(object.prompts)).subarray(first, end + 1);
    return !plan.onlyChanged || seen.some((state) => state === Seen.Unknown || state >= Seen.Stale);
  });
  if (objects.length === 0) return null;
  const common = { objects: objects.map(({ id }) => id), total: end - first + 1 };
  if (plan.extent === "all") return { ...common, start, direction: "both", end: null };
  // Backwards from the first frame the server, like the official server, tracks nothing.
  if (plan.extent === "backward" && end > 0) return { ...common, start: end, direction: "backward", end: null };
  return { ...common, start: first, direction: "forward", end };
}

/** How far the masks are tracked from the prompts; undo may restore this. */
export function trackedState(scene: Scene, masks: Masks, numFrames: number): "never" | "stale" | "partial" | "done" {
  const isTracked = ({ trackedFrom }: MaskEntry) => trackedFrom !== null;
  if (![...masks.values()].some((entries) => [...entries.values()].some(isTracked))) return "never";
  const seen = scene.objects
    .filter(({ prompts }) => Object.keys(prompts).length > 0)
    .flatMap(({ id, prompts }) => [...visibility(masks, id, numFrames, promptKey(prompts))]);
  if (seen.some((state) => state >= Seen.Stale)) return "stale";
  return seen.includes(Seen.Unknown) ? "partial" : "done";
}
