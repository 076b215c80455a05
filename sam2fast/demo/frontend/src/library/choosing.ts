import type { Clip } from "../api/video";
import { firstPromptedFrame } from "../state/scene";
import { openClip } from "../state/session";
import { getState, setState, type State } from "../state/store";

/** Opens a video; asks first if that discards clicks of which no file has been made. */
export async function choose(clip: Clip): Promise<void> {
  if (wouldLoseClicks(getState())) return setState({ dialog: "discard", chosen: clip });
  await openClip(clip);
}

export function wouldLoseClicks({ scene, downloaded }: Pick<State, "scene" | "downloaded">): boolean {
  return firstPromptedFrame(scene) !== null && scene !== downloaded;
}
