import type { VideoSample } from "mediabunny";
import type { Numbering } from "../api/rest";

/** Shows frames at a constant rate, as the server does: their times are rounded to the nearest tick. */
export class ConstantRate {
  private repeated = 0;
  private dropped = 0;
  private shown: VideoSample | null = null;
  private ticks = 0; // that show this frame
  private next = 0; // first tick without a frame

  constructor(private readonly rate: number) {}

  /** Takes the next frame, and returns the frames of further ticks. The first frame is shown from the beginning. */
  readonly add = (frame: VideoSample): VideoSample[] => {
    const tick = this.shown ? Math.round(frame.timestamp * this.rate) : 0;
    const frames: VideoSample[] = [];
    while (this.next < tick) frames.push(this.atNextTick());
    this.close();
    this.shown = frame.clone();
    // If another frame has its tick, this one is shown at the ticks after it, if any.
    if (this.next === tick) frames.push(this.atNextTick());
    return frames;
  };

  /** Counts and frees the last frame. */
  close(): void {
    if (!this.shown) return;
    if (this.ticks === 0) this.dropped += 1;
    if (this.ticks > 1) this.repeated += 1;
    this.ticks = 0;
    this.shown.close();
    this.shown = null;
  }

  /** How many frames are shown at several ticks and at none; null if each is shown at one. */
  get numbering(): Numbering | null {
    const { repeated, dropped } = this;
    return repeated + dropped > 0 ? { repeated, dropped } : null;
  }

  private atNextTick(): VideoSample {
    const frame = this.shown!.clone();
    frame.setTimestamp(this.next / this.rate);
    frame.setDuration(1 / this.rate);
    this.next += 1;
    this.ticks += 1;
    return frame;
  }
}
