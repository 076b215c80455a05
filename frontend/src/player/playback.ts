import { getState, setState } from "../state/store";

/** Player actions of buttons and keys. The player follows `frame` and `playing` of the store. */

export function togglePlay(): void {
  const { playing, phase } = getState();
  if (phase === "ready") setState({ playing: !playing, following: false });
}

export function pause(): void {
  setState({ playing: false });
}

/** Stops at a frame, clamped to the video. */
export function goTo(frame: number): void {
  const { session } = getState();
  if (!session) return;
  setState({
    playing: false,
    following: false,
    frame: Math.min(session.numFrames - 1, Math.max(0, Math.round(frame))),
  });
}

export function step(frames: number): void {
  goTo(getState().frame + frames);
}
