import {
  BlobSource,
  BufferTarget,
  Conversion,
  EncodedPacketSink,
  Input,
  MATROSKA,
  MP4,
  Mp4OutputFormat,
  Output,
  QTFF,
  QUALITY_HIGH,
  QUALITY_VERY_HIGH,
  WEBM,
  WebMOutputFormat,
  getFirstEncodableVideoCodec,
  type ConversionVideoOptions,
  type OutputFormat,
  type VideoCodec,
} from "mediabunny";
import type { Numbering } from "../api/rest";
import type { Part } from "../api/upload";
import { QUALITIES, type FileQuality } from "../media/quality";
import { limitedRange } from "../media/yuv";
import type { Size } from "./arrays";
import { Refusal } from "./calls";
import { ConstantRate } from "./constantRate";

export const FORMATS = [MP4, QTFF, MATROSKA, WEBM];
export const ENDINGS = [".mp4", ".m4v", ".mov", ".mkv", ".webm"];
export const MAX_SECONDS = 60; // of an uploaded video
const MAX_RATE = 60;
export const SEEN: Size = { width: 1280, height: 720 }; // largest size of what the page plays
export const LARGEST: Size = { width: 3840, height: 2160 }; // of files
const KEY_FRAME_SECONDS = 0.5;
const IN_MP4: VideoCodec[] = ["avc", "hevc", "vp9", "av1"]; // in order of preference

/** The progress of a request, and its end. */
export interface Task {
  /** Receives the share that is done, 0 to 1. */
  readonly report: (share: number) => void;
  readonly signal: AbortSignal;
}

/** That of an export, with the quality of videos and the soft outlines of objects: see `alphaOf`. */
export interface ExportTask extends Task {
  readonly quality: FileQuality;
  readonly feather: number;
}

/** A part of a video as the page plays it: MP4, of a constant rate, upright, of at most `largest` or that upright. */
export async function convertVideo(
  file: Blob,
  { start, seconds }: Part,
  largest: Size,
  task: Task,
): Promise<{ video: Blob; size: Size; whole: Size; numbering: Numbering | null }> {
  const input = new Input({ source: new BlobSource(file), formats: FORMATS });
  const track = await input.getPrimaryVideoTrack().catch(() => null);
  if (!track || !(await track.canDecode())) throw new Refusal("BAD_VIDEO", "this browser cannot decode the video");
  const whole = { width: await track.getDisplayWidth(), height: await track.getDisplayHeight() };
  const size = fitted(whole, largest);
  const quality = largest === SEEN ? QUALITY_HIGH : QUALITY_VERY_HIGH;
  const codec = await getFirstEncodableVideoCodec(IN_MP4, { ...size, quality });
  if (!codec) throw new Refusal("BAD_VIDEO", "this browser cannot encode video; open the page in another one");
  const { averagePacketRate } = await track.computePacketStats();
  const rate = new ConstantRate(Math.min(MAX_RATE, averagePacketRate));
  const packets = new EncodedPacketSink(track);
  const first = (await packets.getPacket(start)) ?? (await packets.getFirstPacket());
  if (!first) throw new Refusal("BAD_VIDEO", "the video has no frames");
  const begin = first.timestamp; // of a whole frame
  const video = await convert(
    input,
    new Mp4OutputFormat(),
    "video/mp4",
    task,
    { start: begin, end: begin + seconds },
    {
      ...size,
      codec,
      fit: "fill",
      process: rate.add,
      quality,
      keyFrameInterval: KEY_FRAME_SECONDS,
      allowRotationMetadata: false,
      forceTranscode: true,
    },
  ).finally(() => rate.close());
  return { video, size, whole: fitted(whole, LARGEST), numbering: rate.numbering };
}

/**
 * A video whose frames are changed, with its sound: MP4, or WebM with transparency.
 *
 * @param change receives each frame, drawn, with its time in seconds
 */
export async function changeVideo(
  file: Blob,
  isTransparent: boolean,
  hasSound: boolean,
  change: (context: OffscreenCanvasRenderingContext2D, time: number) => void,
  task: ExportTask,
): Promise<Blob> {
  const input = new Input({ source: new BlobSource(file), formats: FORMATS });
  const track = (await input.getPrimaryVideoTrack())!;
  // H.264 needs even numbers of pixels.
  const size = { width: track.displayWidth & ~1, height: track.displayHeight & ~1 };
  const codec = await getFirstEncodableVideoCodec(isTransparent ? ["vp9", "vp8"] : IN_MP4, size);
  if (!codec) throw new Refusal("BAD_INPUT", "this browser cannot encode such a video");
  const context = new OffscreenCanvas(size.width, size.height).getContext("2d", { willReadFrequently: true })!;
  const format = isTransparent ? new WebMOutputFormat() : new Mp4OutputFormat();
  const type = isTransparent ? "video/webm" : "video/mp4";
  return convert(
    input,
    format,
    type,
    task,
    {},
    {
      codec,
      alpha: isTransparent ? "keep" : "discard",
      quality: QUALITIES[task.quality],
      forceTranscode: true,
      processedWidth: size.width,
      processedHeight: size.height,
      process: (sample) => {
        sample.draw(context, 0, 0, size.width, size.height);
        change(context, sample.timestamp);
        return isTransparent ? context.canvas : limitedRange(context, sample);
      },
    },
    hasSound,
  );
}

async function convert(
  input: Input,
  format: OutputFormat,
  type: string,
  { report, signal }: Task,
  trim: { start?: number; end?: number },
  video: ConversionVideoOptions,
  hasSound = true,
): Promise<Blob> {
  const target = new BufferTarget();
  const output = new Output({ format, target });
  const conversion = await Conversion.init({ input, output, trim, video, audio: { discard: !hasSound } });
  if (!conversion.isValid) throw new Refusal("BAD_VIDEO", "this browser cannot convert the video");
  conversion.onProgress = report;
  const cancel = () => void conversion.cancel();
  signal.throwIfAborted();
  signal.addEventListener("abort", cancel);
  await conversion.execute().finally(() => signal.removeEventListener("abort", cancel));
  signal.throwIfAborted();
  return new Blob([target.buffer!], { type });
}

/** At most the largest size, or that of an upright video; H.264 needs even numbers of pixels. */
function fitted({ width, height }: Size, largest: Size): Size {
  const [long, short] = [Math.max(width, height), Math.min(width, height)];
  const scale = Math.min(1, largest.width / long, largest.height / short);
  const even = (length: number) => Math.max(2, 2 * Math.round((scale * length) / 2));
  return { width: even(width), height: even(height) };
}
