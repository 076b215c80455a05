import { zipSync } from "fflate";
import { encodeFrames, exportMasks, type ExportFormat } from "../api/rest";
import type { Clip } from "../api/video";
import { CUT_OUT } from "../effects/look";
import { isUpload } from "../project/autosave";
import { makeProject } from "../project/project";
import { getState, type Session } from "../state/store";
import { evenSize, findCodec, renderVideo } from "./renderVideo";
import { drawnFrames, FrameRenderer, type Work } from "./frames";
import { stemOf } from "./files";

export interface Progress {
  /** What is being done. */
  readonly what: string;
  /** 0 to 1; null if it is not known. */
  readonly share: number | null;
}

interface Task {
  readonly clip: Clip;
  readonly session: Session;
  readonly work: Work;
  readonly report: (progress: Progress) => void;
  readonly signal: AbortSignal;
}

export interface Format {
  readonly name: string;
  readonly what: string;
  /** Follows the video's name in the name of the file. */
  readonly suffix: string;
  readonly make: (task: Task) => Promise<Blob>;
}

export const FORMATS: readonly Format[] = [
  {
    name: "Video",
    what: "As you see it, with its sound (MP4). Transparent parts are black.",
    suffix: ".mp4",
    make: makeVideo,
  },
  {
    name: "Transparent video",
    what: "The objects alone, for video editors (WebM with alpha).",
    suffix: "_cutout.webm",
    make: makeTransparent,
  },
  fromServer("Cut-outs", "The objects alone, an image per frame (ZIP of PNG).", "_cutouts.zip", "cutout"),
  fromServer("PNG masks", "A palette image per frame: 0 is the background (ZIP).", "_masks.zip", "masks_png"),
  fromServer("COCO", "Images and masks with classes for training (ZIP).", "_coco.zip", "coco"),
  fromServer("YouTube-VIS", "All masks, with names, classes and times (JSON).", "_youtube_vis.json", "coco_rle"),
  fromServer("YOLO", "Images and polygons for training (ZIP).", "_yolo.zip", "yolo"),
  fromServer("LabelMe", "Images and polygons for labelling (ZIP).", "_labelme.zip", "labelme"),
  { name: "Frame", what: "This frame as you see it (PNG).", suffix: "", make: makeFrame },
  { name: "Project", what: "To continue later, here or elsewhere.", suffix: ".sam2fast.json", make: makeProjectFile },
];

/** Makes a file of the page's current work; returns it with its name. */
export async function makeDownload(
  format: Format,
  report: Task["report"],
  signal: AbortSignal,
): Promise<{ name: string; content: Blob } | null> {
  const { clip, session, scene, masks, look, frame } = getState();
  if (!clip || !session) return null;
  const content = await format.make({ clip, session, work: { scene, masks, look }, report, signal });
  const suffix = format.suffix || `_${String(frame).padStart(5, "0")}.png`;
  const stem = isUpload(clip) ? stemOf(clip.name) : clip.name; // names of the gallery have no ending
  return { name: stem + suffix, content };
}

async function makeVideo(task: Task): Promise<Blob> {
  const { clip, session, work, report, signal } = task;
  const codec = await findCodec(clip);
  const progress = (share: number) => report({ what: "Rendering", share });
  const video = codec && (await renderVideo(work, clip, session, codec, progress, signal));
  return video ?? encodeOnServer(task, work, "mp4");
}

function makeTransparent(task: Task): Promise<Blob> {
  const look = { ...task.work.look, background: CUT_OUT.background };
  return encodeOnServer(task, { ...task.work, look }, "webm");
}

async function encodeOnServer(
  { clip, session, report, signal }: Task,
  work: Work,
  kind: "mp4" | "webm",
): Promise<Blob> {
  const renderer = new FrameRenderer(work, evenSize(clip));
  const frames: Record<string, Uint8Array> = {};
  let done = 0;
  for await (const image of drawnFrames(renderer, clip.url, session, kind === "mp4" ? "image/jpeg" : "image/webp")) {
    signal.throwIfAborted();
    frames[String(done).padStart(5, "0")] = new Uint8Array(await image.arrayBuffer());
    done += 1;
    report({ what: "Rendering", share: done / session.numFrames });
  }
  report({ what: "Encoding", share: null });
  return encodeFrames(session.id, kind, new Blob([zipSync(frames, { level: 0 })]), signal);
}

function fromServer(name: string, what: string, suffix: string, format: ExportFormat): Format {
  const make = ({ session, work: { scene, masks }, report, signal }: Task) => {
    report({ what: "Writing", share: null });
    return exportMasks(session.id, format, scene, masks, signal, (share) => report({ what: "Receiving", share }));
  };
  return { name, what, suffix, make };
}

function makeFrame(): Promise<Blob> {
  const canvas = document.querySelector<HTMLCanvasElement>(".frame canvas")!;
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The frame cannot be saved."))));
  });
}

function makeProjectFile(): Promise<Blob> {
  return Promise.resolve(new Blob([JSON.stringify(makeProject(getState()))], { type: "application/json" }));
}
