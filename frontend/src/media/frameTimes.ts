/** The frame that is visible at a time of the video, in seconds. */
export function frameAt(seconds: number, fps: number, numFrames: number): number {
  return Math.min(numFrames - 1, Math.max(0, Math.floor(seconds * fps + 1e-3)));
}

/** The middle of a frame in seconds: browsers show this frame however they round. */
export function timeOf(frame: number, fps: number): number {
  return (frame + 0.5) / fps;
}
