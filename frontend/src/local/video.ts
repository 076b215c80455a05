import { BlobSource, Input, VideoSampleSink, type InputVideoTrack, type VideoSample } from "mediabunny";
import type { Frames } from "./tracker";
import { FORMATS } from "./convert";
import { resample } from "./resample";

/** Reads a video's frames by WebCodecs. */

const KEPT_BYTES = 128 * 1024 * 1024; // of frames in the model's size
const NEAR = 16; // frames that are decoded on the way rather than by a new seek

/** A video of a constant rate, as the gallery's and the converted ones are. */
export class LocalVideo implements Frames {
  private readonly kept = new Map<number, Uint8Array>();
  private readonly context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true })!;
  private readonly sink: VideoSampleSink;
  private samples: AsyncGenerator<VideoSample, void> | null = null;
  private next = 0; // frame that `samples` yields next
  private wanted = 0; // frame that was read last

  private constructor(
    private readonly track: InputVideoTrack,
    private readonly side: number,
    readonly count: number,
    readonly fps: number,
  ) {
    this.sink = new VideoSampleSink(track);
  }

  /** @param side of the model's input @throws Error if this browser cannot decode it */
  static async open(file: Blob, side: number): Promise<LocalVideo> {
    const track = await openTrack(file);
    const { packetCount, averagePacketRate } = await track.computePacketStats();
    return new LocalVideo(track, side, packetCount, averagePacketRate);
  }

  get height(): number {
    return this.track.displayHeight;
  }

  get width(): number {
    return this.track.displayWidth;
  }

  async read(frame: number): Promise<Uint8Array> {
    // Backwards, frames before this one are decoded with it.
    const first = frame === this.wanted - 1 ? Math.max(0, frame - NEAR + 1) : frame;
    this.wanted = frame;
    const found = this.kept.get(frame);
    if (found) return found;
    if (!this.samples || this.next > frame || frame - this.next >= NEAR) {
      await this.close();
      this.samples = this.sink.samples(first / this.fps);
      this.next = first;
    }
    for (;;) {
      const { value: sample, done } = await this.samples.next();
      if (done) {
        this.samples = null;
        throw new Error(`frame ${frame} cannot be decoded`);
      }
      this.next = Math.round(sample.timestamp * this.fps);
      const pixels = this.resized(sample);
      sample.close();
      this.keep(this.next, pixels);
      this.next += 1;
      if (this.next > frame) return pixels;
    }
  }

  async close(): Promise<void> {
    await this.samples?.return();
    this.samples = null;
  }

  private resized(sample: VideoSample): Uint8Array {
    const { width, height } = this;
    Object.assign(this.context.canvas, { width, height });
    sample.draw(this.context, 0, 0, width, height);
    return resample(this.context.getImageData(0, 0, width, height).data, { height, width }, this.side);
  }

  private keep(frame: number, pixels: Uint8Array): void {
    this.kept.set(frame, pixels);
    if (this.kept.size * pixels.length > KEPT_BYTES) this.kept.delete(this.kept.keys().next().value!);
  }
}

async function openTrack(file: Blob): Promise<InputVideoTrack> {
  const track = await new Input({ source: new BlobSource(file), formats: FORMATS }).getPrimaryVideoTrack();
  if (!track || !(await track.canDecode())) throw new Error("this browser cannot decode the video");
  return track;
}

/** All frames of a video with their numbers, one after the other. */
export async function* allFrames(file: Blob): AsyncGenerator<[number, OffscreenCanvas], void> {
  const track = await openTrack(file);
  const canvas = new OffscreenCanvas(track.displayWidth, track.displayHeight);
  const context = canvas.getContext("2d")!;
  let frame = 0;
  for await (const sample of new VideoSampleSink(track).samples()) {
    sample.draw(context, 0, 0, canvas.width, canvas.height);
    sample.close();
    yield [frame, canvas];
    frame += 1;
  }
}
