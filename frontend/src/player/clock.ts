import { frameAt, timeOf } from "../media/frameTimes";

/** Seeks a `<video>` to exact frames and reports the visible frame. */
export class FrameClock {
  private wanted: number | null = null; // the next seek, after the current one
  private callback = 0;

  constructor(
    private readonly video: HTMLVideoElement,
    private readonly fps: number,
    private readonly numFrames: number,
    /** Called for every new frame. */
    private readonly onFrame: (frame: number) => void,
  ) {
    video.addEventListener("seeked", this.onSeeked);
    video.addEventListener("loadeddata", this.onSeeked);
    this.listen();
  }

  /** Shows a frame. During a seek only the latest request is kept, so that scrubbing does not queue up. */
  show(frame: number): void {
    if (this.video.seeking) {
      this.wanted = frame;
    } else {
      this.wanted = null;
      this.video.currentTime = timeOf(frame, this.fps);
    }
  }

  stop(): void {
    this.video.removeEventListener("seeked", this.onSeeked);
    this.video.removeEventListener("loadeddata", this.onSeeked);
    if (hasFrameCallback(this.video)) this.video.cancelVideoFrameCallback(this.callback);
    else cancelAnimationFrame(this.callback);
  }

  private readonly onSeeked = () => {
    if (this.wanted !== null) return this.show(this.wanted);
    this.onFrame(frameAt(this.video.currentTime, this.fps, this.numFrames));
  };

  /** Reports every frame while the video plays. */
  private listen(): void {
    if (hasFrameCallback(this.video)) {
      this.callback = this.video.requestVideoFrameCallback((_, { mediaTime }) => {
        if (!this.video.seeking) this.onFrame(frameAt(mediaTime + 0.25 / this.fps, this.fps, this.numFrames));
        this.listen();
      });
    } else {
      this.callback = requestAnimationFrame(() => {
        if (!this.video.paused) this.onFrame(frameAt(this.video.currentTime, this.fps, this.numFrames));
        this.listen();
      });
    }
  }
}

function hasFrameCallback(video: HTMLVideoElement): boolean {
  return "requestVideoFrameCallback" in video;
}
