import {
  BlobSource,
  BufferTarget,
  Conversion,
  Input,
  MATROSKA,
  MP4,
  Mp4OutputFormat,
  Output,
  QTFF,
  QUALITY_HIGH,
  WEBM,
  WebMOutputFormat,
  getFirstEncodableVideoCodec,
  type ConversionVideoOptions,
  type OutputFormat,
  type VideoCodec,
} from "mediabunny";
import { unzipSync } from "fflate";
import type { Size } from "./arrays";
import { Refusal } from "./calls";

export const FORMATS = [MP4, QTFF, MATROSKA, WEBM];
export const ENDINGS = [".mp4", ".m4v", ".mov", ".mkv", ".webm"];
export const MAX_SECONDS = 10; // of an uploaded video
const MAX_RATE = 60;
const LONG_SIDE = 1280;
const SHORT_SIDE = 720;
const KEY_FRAME_SECONDS = 0.5;
const IN_MP4: VideoCodec[] = ["avc", "hevc", "vp9", "av1"]; // in order of preference

/** The beginning of a video as the page plays it: MP4, of a steady rate, upright, of at most 1280x720. */
export async function convertVideo(file: Blob): Promise<{ video: Blob; size: Size }> {
  const input = new Input({ source: new BlobSource(file), formats: FORMATS });
  const track = await input.getPrimaryVideoTrack().catch(() => null);
  if (!track || !(await track.canDecode())) throw new Refusal("BAD_VIDEO", "this browser cannot decode the video");
  const size = fitted({ width: await track.getDisplayWidth(), height: await track.getDisplayHeight() });
  const codec = await getFirstEncodableVideoCodec(IN_MP4, { ...size, quality: QUALITY_HIGH });
  if (!codec) throw new Refusal("BAD_VIDEO", "this browser cannot encode video; open the page in another one");
  const { averagePacketRate } = await track.computePacketStats();
  const video = await convert(input, new Mp4OutputFormat(), "video/mp4", {
    ...size,
    codec,
    fit: "fill",
    frameRate: Math.min(MAX_RATE, averagePacketRate),
    quality: QUALITY_HIGH,
    keyFrameInterval: KEY_FRAME_SECONDS,
    allowRotationMetadata: false,
    forceTranscode: true,
  });
  return { video, size };
}

/** A video of drawn frames with the sound of the original one; WebM keeps their transparency. */
export async function encodeFrames(kind: string, frames: Blob, original: Blob): Promise<Blob> {
  const images = Object.values(unzipSync(new Uint8Array(await frames.arrayBuffer())));
  const input = new Input({ source: new BlobSource(original), formats: FORMATS });
  const isTransparent = kind === "webm";
  const format = isTransparent ? new WebMOutputFormat() : new Mp4OutputFormat();
  const first = await createImageBitmap(new Blob([images[0]!]));
  const { width, height } = first;
  first.close();
  const codec = await getFirstEncodableVideoCodec(isTransparent ? ["vp9", "vp8"] : IN_MP4, { width, height });
  if (!codec) throw new Refusal("BAD_INPUT", "this browser cannot encode such a video");
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d")!;
  let next = 0;
  return convert(input, format, `video/${kind}`, {
    codec,
    alpha: isTransparent ? "keep" : "discard",
    quality: QUALITY_HIGH,
    forceTranscode: true,
    processedWidth: width,
    processedHeight: height,
    process: async () => {
      const bytes = images[Math.min(next, images.length - 1)]!;
      const image = await createImageBitmap(new Blob([bytes]));
      next += 1;
      context.clearRect(0, 0, width, height);
      context.drawImage(image, 0, 0);
      image.close();
      return canvas;
    },
  });
}

async function convert(input: Input, format: OutputFormat, type: string, video: ConversionVideoOptions): Promise<Blob> {
  const target = new BufferTarget();
  const conversion = await Conversion.init({
    input,
    output: new Output({ format, target }),
    trim: { start: 0, end: MAX_SECONDS },
    video,
  });
  if (!conversion.isValid) throw new Refusal("BAD_VIDEO", "this browser cannot convert the video");
  await conversion.execute();
  return new Blob([target.buffer!], { type });
}

/** At most 1280x720 or 720x1280; H.264 needs even numbers of pixels. */
function fitted({ width, height }: Size): Size {
  const [long, short] = [Math.max(width, height), Math.min(width, height)];
  const scale = Math.min(1, LONG_SIDE / long, SHORT_SIDE / short);
  const even = (length: number) => Math.max(2, 2 * Math.round((scale * length) / 2));
  return { width: even(width), height: even(height) };
}
