import type { Clip } from "../api/video";
import { firstPromptedFrame } from "../state/scene";
import { openClip } from "../state/session";
import { getState, setState, type State } from "../state/store";

/** Opens a video; asks first if clicks would be lost that were not downloaded. */
export async function choose(clip: Clip): Promise<void> {
  if (wouldLoseClicks(getState())) return setState({ dialog: "discard", chosen: clip });
  await openClip(clip);
}

export function wouldLoseClicks({ scene, downloaded }: Pick<State, "scene" | "downloaded">): boolean {
  return firstPromptedFrame(scene) !== null && scene !== downloaded;
}
