import {
  MP4,
  BufferTarget,
  Conversion,
  Input,
  Mp4OutputFormat,
  Output,
  UrlSource,
  getFirstEncodableVideoCodec,
  type VideoCodec,
} from "mediabunny";
import type { Clip } from "../api/video";
import { QUALITIES, type FileQuality } from "../media/quality";
import { limitedRange } from "../media/yuv";
import type { Session } from "../state/store";
import { FrameRenderer, type Work } from "./frames";

const CODECS: VideoCodec[] = ["avc", "hevc", "vp9", "av1"]; // in order of preference, all in MP4

/** The first codec that this browser encodes at a size; null if it encodes none. */
export async function findCodec({ width, height }: Clip, quality: FileQuality): Promise<VideoCodec | null> {
  if (typeof VideoEncoder === "undefined" || typeof VideoDecoder === "undefined") return null;
  return getFirstEncodableVideoCodec(CODECS, { ...evenSize({ width, height }), quality: QUALITIES[quality] });
}

/** H.264 needs even numbers of pixels. */
export function evenSize({ width, height }: { width: number; height: number }) {
  return { width: width + (width % 2), height: height + (height % 2) };
}

/**
 * Renders the video as the page shows it: every frame at its time, with the sound.
 *
 * @param progress receives the share that is done, 0 to 1
 * @returns null if the browser cannot, which the size does not tell alone
 * @throws Error after `signal`
 */
export async function renderVideo(
  work: Work,
  clip: Clip,
  session: Session,
  { codec, quality }: { codec: VideoCodec; quality: FileQuality },
  progress: (share: number) => void,
  signal: AbortSignal,
): Promise<Blob | null> {
  const renderer = new FrameRenderer(work, evenSize(clip));
  const target = new BufferTarget();
  const conversion = await Conversion.init({
    input: new Input({ source: new UrlSource(clip.url), formats: [MP4] }),
    output: new Output({ format: new Mp4OutputFormat(), target }),
    video: {
      codec,
      quality: QUALITIES[quality],
      forceTranscode: true,
      keyFrameInterval: 1,
      ...renderer.processedSize,
      process: async (sample) => {
        const frame = Math.round(sample.timestamp * session.fps);
        const image = sample.toCanvasImageSource();
        return limitedRange(await renderer.draw(image, Math.min(frame, session.numFrames - 1)), sample);
      },
    },
  });
  if (!conversion.isValid) return null;
  conversion.onProgress = progress;
  signal.throwIfAborted();
  signal.addEventListener("abort", () => void conversion.cancel());
  await conversion.execute();
  signal.throwIfAborted();
  return new Blob([target.buffer!], { type: "video/mp4" });
}
