import { unzipSync, zipSync } from "fflate";
import { withJob } from "../api/jobs";
import { encodeFrames, exportMasks, type ExportFormat, type FileSize } from "../api/rest";
import type { Clip } from "../api/video";
import { readVideoMasks } from "../masks/masks";
import { loadBackdrop } from "../effects/backdrop";
import { featherOf } from "../media/edges";
import { namesOf } from "../scene/classes";
import type { FileQuality } from "../media/quality";
import { isUpload } from "../project/autosave";
import { makeProject } from "../project/project";
import { getState, type Session } from "../state/store";
import { evenSize, findCodec, renderVideo } from "./renderVideo";
import { drawnFrames, FrameRenderer, type Work } from "./frames";
import { stemOf } from "./files";
import type { Group, Progress } from "./running";

export interface Task {
  readonly clip: Clip;
  readonly session: Session;
  readonly size: FileSize;
  readonly quality: FileQuality;
  readonly tolerance: number;
  readonly work: Work;
  readonly report: (progress: Progress) => void;
  readonly signal: AbortSignal;
}

export interface Format {
  readonly name: string;
  readonly group: Group;
  readonly what: string;
  /** Follows the video's name in the name of the file. */
  readonly suffix: string;
  /** Of the server that makes it; without one the page does. */
  readonly format?: ExportFormat;
  readonly make: (task: Task) => Promise<Blob>;
}

const forEditing = fromServer.bind(null, "For editing");
const forTraining = fromServer.bind(null, "For training");

export const FORMATS: readonly Format[] = [
  {
    name: "Video",
    group: "For editing",
    what: "As you see it, with its sound (MP4). Transparent parts are black.",
    suffix: ".mp4",
    make: makeVideo,
  },
  forEditing("Green screen", "The objects before green, with the sound (MP4).", "_green.mp4", "green_mp4"),
  forEditing("Matte", "The objects in white on black (MP4).", "_matte.mp4", "matte_mp4"),
  forEditing(
    "Transparent video",
    "The objects alone, for video editors (WebM with alpha).",
    "_cutout.webm",
    "transparent_webm",
  ),
  forEditing("ProRes 4444", "The same for editors that read no WebM: a large file (MOV).", "_cutout.mov", "prores_mov"),
  forEditing("Cut-outs", "The objects alone, an image per frame (ZIP of PNG).", "_cutouts.zip", "cutout"),
  forEditing(
    "Object mattes",
    "Each object in white on black, a folder of all frames (ZIP of PNG).",
    "_mattes.zip",
    "object_mattes",
  ),
  forEditing(
    "Object cut-outs",
    "Each object alone, a folder of all frames (ZIP of PNG).",
    "_objects.zip",
    "object_cutouts",
  ),
  { name: "Frame", group: "For editing", what: "This frame as you see it (PNG).", suffix: "", make: makeFrame },
  forTraining("PNG masks", "A palette image per frame: 0 is the background (ZIP).", "_masks.zip", "masks_png"),
  forTraining("COCO", "Images and masks with classes for training (ZIP).", "_coco.zip", "coco"),
  forTraining("YouTube-VIS", "All masks, with names, classes and times (JSON).", "_youtube_vis.json", "coco_rle"),
  forTraining("YOLO", "Images and polygons for training (ZIP).", "_yolo.zip", "yolo"),
  forTraining("LabelMe", "Images and polygons for labelling (ZIP).", "_labelme.zip", "labelme"),
  {
    name: "Project",
    group: "To continue",
    what: "The work, here or elsewhere.",
    suffix: ".sam2fast.json",
    make: makeProjectFile,
  },
];

/** Formats of the server that have a choice of quality; "source_mp4" is drawn on, not kept. */
const WITH_QUALITY: readonly ExportFormat[] = ["green_mp4", "matte_mp4", "transparent_webm"];

/** Those with alpha, which may be soft. */
const WITH_EDGES: readonly ExportFormat[] = [
  ...WITH_QUALITY,
  "prores_mov",
  "cutout",
  "object_mattes",
  "object_cutouts",
];

/** Makes a file of the page's current work; returns it with its name. */
export async function makeDownload(
  format: Format,
  size: FileSize,
  quality: FileQuality,
  tolerance: number,
  report: Task["report"],
  signal: AbortSignal,
): Promise<{ name: string; content: Blob } | null> {
  const { clip, session, scene, masks, look, frame, edges } = getState();
  if (!clip || !session) return null;
  await loadBackdrop(look.image);
  const work = { scene, masks, look, feather: featherOf(edges), mattes: null };
  const content = await format.make({ clip, session, size, quality, tolerance, work, report, signal });
  const suffix = format.suffix || `_${String(frame).padStart(5, "0")}.png`;
  const stem = isUpload(clip) ? stemOf(clip.name) : clip.name; // names of the gallery have no ending
  return { name: stem + suffix, content };
}

async function makeVideo(chosen: Task): Promise<Blob> {
  const task = await withMattes(chosen);
  const { session, report, signal, size, quality } = task;
  const source = size === "source" && session.source ? { ...task.clip, ...session.source } : null;
  const codec = await findCodec(source ?? task.clip, quality);
  if (!codec) return encodeOnServer(task);
  const { clip, work } = source ? await drawnOnSource(task, source) : { ...task, work: seenWork(task) };
  const progress = (share: number) => report({ what: "Rendering", share });
  try {
    return (
      (await renderVideo(work, clip, session, { codec, quality }, progress, signal)) ?? (await encodeOnServer(task))
    );
  } finally {
    if (source) URL.revokeObjectURL(clip.url);
  }
}

/** The task with the mattes of the server, if outlines follow hair and leaves. */
export async function withMattes(task: Task): Promise<Task> {
  const { scene, masks } = task.work;
  if (getState().edges.kind !== "matte" || masks.size === 0) return task;
  const zip = await fetchFile(task, "object_mattes", "Reading mattes");
  const mattes: Blob[][] = scene.objects.map(() => []);
  for (const [name, content] of Object.entries(unzipSync(new Uint8Array(await zip.arrayBuffer()))))
    mattes[parseInt(name, 10) - 1]!.push(new Blob([content])); // folders are numbered
  return { ...task, work: { ...task.work, mattes } };
}

/** The video and its masks at the source's size. */
async function drawnOnSource(task: Task, clip: Clip): Promise<{ clip: Clip; work: Work }> {
  const masks = readVideoMasks(JSON.parse(await (await fetchFile(task, "coco_rle", "Reading masks")).text()));
  const video = await fetchFile(task, "source_mp4", "Reading the source");
  return { clip: { ...clip, url: URL.createObjectURL(video) }, work: { ...task.work, masks } };
}

/** The work in pixels of what the page plays: feathers are in those of the source. */
function seenWork({ clip, session, work }: Task): Work {
  return { ...work, feather: (work.feather * clip.height) / (session.source ?? clip).height };
}

async function encodeOnServer(task: Task): Promise<Blob> {
  const { clip, session, quality, report, signal } = task;
  const renderer = new FrameRenderer(seenWork(task), evenSize(clip));
  const frames: Record<string, Uint8Array> = {};
  let done = 0;
  for await (const image of drawnFrames(renderer, clip.url, session)) {
    signal.throwIfAborted();
    frames[String(done).padStart(5, "0")] = new Uint8Array(await image.arrayBuffer());
    done += 1;
    report({ what: "Rendering", share: done / session.numFrames });
  }
  const encoding = (share: number) => report({ what: "Encoding", share });
  encoding(0);
  const zip = new Blob([zipSync(frames, { level: 0 })]);
  return withJob((job) => encodeFrames(session.id, zip, quality, job, signal), encoding, signal);
}

function fromServer(group: Group, name: string, what: string, suffix: string, format: ExportFormat): Format {
  return { name, group, what, suffix, format, make: (task) => fetchFile(task, format, "Writing") };
}

function fetchFile(
  { session, size, quality, tolerance, work: { scene, masks }, report, signal }: Task,
  format: ExportFormat,
  what: string,
): Promise<Blob> {
  const progress = (share: number) => report({ what, share });
  const receiving = (share: number) => report({ what: "Receiving", share });
  const chosen = WITH_QUALITY.includes(format) ? quality : null;
  const edges = WITH_EDGES.includes(format) ? getState().edges : null;
  progress(0);
  return withJob(
    (job) => {
      const request = {
        format,
        size,
        quality: chosen,
        tolerance,
        edges,
        classes: namesOf(getState().classes),
        scene,
        masks,
        job,
      };
      return exportMasks(session.id, request, signal, receiving);
    },
    progress,
    signal,
  );
}

function makeFrame(): Promise<Blob> {
  const canvas = document.querySelector<HTMLCanvasElement>(".frame canvas")!;
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The frame cannot be saved."))));
  });
}

function makeProjectFile(): Promise<Blob> {
  const state = getState();
  const project = { ...makeProject(state), classes: state.classes };
  return Promise.resolve(new Blob([JSON.stringify(project)], { type: "application/json" }));
}
