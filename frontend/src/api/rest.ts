import type { Masks } from "../masks/masks";
import type { Mask } from "../masks/rle";
import { edgesQuery, type Edges } from "../media/edges";
import type { FileQuality } from "../media/quality";
import type { Scene, SceneObject } from "../scene/scene";
import { responseError, sendingError } from "./errors";
import { send } from "./transport";

export interface Limits {
  maxUploadMB: number;
  maxSeconds: number;
  formats: string[];
  /** Endings of the photographs that it opens; none where it opens videos only. */
  photoFormats?: readonly string[];
  maxSessions: number;
  maxObjects?: number;
  model: string;
  imageSize: number;
  /** What the page does not offer here; `sam2fast serve` lacks nothing. */
  lacks?: readonly (
    "importing masks" | "models" | "everything" | "similar" | "matte" | "simplifying" | ExportFormat | PhotoKind
  )[];
}

export interface SessionFacts {
  /** Null for a photograph. */
  fps: number | null;
  numFrames: number;
  width: number;
  height: number;
  secondsLeft: number;
  /** Why the last track failed; null if it did not. */
  problem?: string | null;
  /** The size of the file that the video was made of, where that is larger. */
  source?: { width: number; height: number } | null;
  /** Null if frames have the file's numbers. */
  numbering?: Numbering | null;
}

/** How many frames of the file are shown longer, and are left out, for a constant rate. */
export interface Numbering {
  readonly repeated: number;
  readonly dropped: number;
}

/** Formats of the masks of photographs. */
export type PhotoKind = "coco" | "yolo" | "yolo-seg" | "labelme" | "label-studio" | "png" | "geojson" | "cutout";

export type ExportFormat =
  | ("masks_png" | "coco" | "coco_rle" | "yolo" | "labelme" | "cutout")
  | ("object_mattes" | "object_cutouts")
  | ("source_mp4" | "green_mp4" | "matte_mp4" | "transparent_webm" | "prores_mov");

/** Of exported files: that of the source, or of the video as the page plays it. */
export type FileSize = "source" | "seen";

export async function request(path: string, init?: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await send(path, init);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw sendingError(error);
  }
  if (!response.ok) throw await responseError(response);
  return response;
}

export async function json<T>(path: string, init?: RequestInit): Promise<T> {
  return (await (await request(path, init)).json()) as T;
}

const sessionPath = (id: string) => `/api/sessions/${encodeURIComponent(id)}`;

export const getLimits = () => json<Limits>("/api/limits");
export const getSession = (id: string) => json<SessionFacts>(sessionPath(id));
export const renewSession = (id: string) => json<unknown>(`${sessionPath(id)}/renew`, { method: "POST" });

/** Encodes a photograph that is opened next. @throws ApiError */
export async function preparePhoto(path: string): Promise<void> {
  await request("/api/photographs/prepare", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ path }),
  });
}

/** Sets an object's mask on a frame, as a prompt. @throws ApiError */
export async function addMask(id: string, objectId: number, frameIndex: number, mask: Mask): Promise<void> {
  const { height, width, counts } = mask;
  await request(`${sessionPath(id)}/masks`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ objectId, frameIndex, mask: { size: [height, width], counts } }),
  });
}

/** A mask that the model proposes. */
export interface Proposal extends Mask {
  /** Predicted IoU. */
  readonly iou: number;
  /** To labelled objects, 0 to 1. */
  readonly likeness?: number;
}

/** All clicks of an object on a frame, in SAM 2's form. */
export interface Clicks {
  readonly objectId: number;
  readonly frameIndex: number;
  readonly points: readonly (readonly number[])[];
  readonly labels: readonly number[];
  /** They refine the object's mask there, otherwise they replace its prompts. */
  readonly refine: boolean;
}

/** The masks that clicks would find, the best first; none if a newer request has replaced this one. @throws ApiError */
export async function previewMasks(id: string, clicks: Clicks, signal?: AbortSignal): Promise<Proposal[]> {
  const { masks } = await json<ProposedMasks>(`${sessionPath(id)}/preview`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(clicks),
    ...(signal && { signal }),
  });
  return masks.map(readProposal);
}

/**
 * The masks of all that is seen in a session's photograph, the largest first.
 *
 * @param job see `withJob`
 * @throws ApiError, or a DOMException named AbortError after `signal`
 */
export async function findEverything(id: string, job: string, signal: AbortSignal): Promise<Proposal[]> {
  const { masks } = await json<ProposedMasks>(`${sessionPath(id)}/everything?job=${job}`, { method: "POST", signal });
  return masks.map(readProposal);
}

/** An object of a photograph that the server has. */
export interface LabelledMask {
  readonly path: string;
  readonly mask: Mask;
}

/**
 * The objects of a photograph that look like labelled ones, the most alike first.
 *
 * @param job see `withJob`
 * @throws ApiError, or a DOMException named AbortError after `signal`
 */
export async function findSimilar(
  path: string,
  labelled: readonly LabelledMask[],
  job: string,
  signal: AbortSignal,
): Promise<Proposal[]> {
  const references = labelled.map(({ path, mask: { height, width, counts } }) => {
    return { path, mask: { size: [height, width], counts } };
  });
  const { masks } = await json<ProposedMasks>(`/api/photographs/similar?job=${job}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ path, references }),
    signal,
  });
  return masks.map(readProposal);
}

interface ProposedMasks {
  masks: { size: [number, number]; counts: string; iou: number; likeness?: number }[];
}

function readProposal({ size, counts, iou, likeness }: ProposedMasks["masks"][number]): Proposal {
  return { height: size[0], width: size[1], counts, iou, ...(likeness !== undefined && { likeness }) };
}

export interface ImportedObject {
  readonly name: string;
  /** The class; empty if the file has none. */
  readonly label: string;
  /** In the order of the frames; at least one. */
  readonly masks: readonly { readonly frame: number; readonly mask: Mask }[];
}

/** The objects of a file of masks; a PNG belongs to the given frame. @throws ApiError */
export async function readMaskFile(id: string, file: File, frame: number): Promise<ImportedObject[]> {
  interface Answer {
    objects: {
      name: string;
      label: string;
      masks: { frame: number; mask: { size: [number, number]; counts: string } }[];
    }[];
  }
  const { objects } = await json<Answer>(`${sessionPath(id)}/read_masks?frame=${frame}`, {
    method: "POST",
    body: file,
  });
  return objects.map(({ name, label, masks }) => ({
    name,
    label,
    masks: masks.map(({ frame, mask: { size, counts } }) => ({
      frame,
      mask: { height: size[0], width: size[1], counts },
    })),
  }));
}

/** A small image of a photograph that this browser cannot read. @throws ApiError */
export async function readThumbnail(file: Blob): Promise<Blob> {
  return (await request("/api/photographs/thumbnail", { method: "POST", body: file })).blob();
}

/** Whether the server answers. */
export async function isHealthy(): Promise<boolean> {
  return request("/healthy", { cache: "no-store" }).then(
    () => true,
    () => false,
  );
}

/** A file to make. */
export interface ExportRequest {
  readonly format: ExportFormat;
  readonly size: FileSize;
  /** Only of formats that have a choice. */
  readonly quality: FileQuality | null;
  /** The largest distance of polygons from the masks' outlines, in pixels. */
  readonly tolerance: number;
  /** Only of formats with alpha. */
  readonly edges: Edges | null;
  readonly classes: readonly string[];
  readonly scene: Scene;
  readonly masks: Masks;
  /** See `withJob`. */
  readonly job: string;
}

/**
 * A file of the page's masks.
 *
 * @param progress receives the share of the file that has arrived, 0 to 1
 * @throws ApiError, or a DOMException named AbortError after `signal`
 */
export async function exportMasks(
  id: string,
  { format, size, quality, tolerance, edges, classes, scene, masks, job }: ExportRequest,
  signal: AbortSignal,
  progress: (share: number) => void,
): Promise<Blob> {
  const soft = edges ? edgesQuery(edges) : "";
  const options = `format=${format}&size=${size}${quality ? `&quality=${quality}` : ""}&tolerance=${tolerance}${soft}&job=${job}`;
  const response = await request(`${sessionPath(id)}/export?${options}`, { ...posted(scene, masks, classes), signal });
  const total = Number(response.headers.get("Content-Length"));
  let received = 0;
  const counted = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      received += chunk.length;
      if (total > 0) progress(Math.min(1, received / total));
      controller.enqueue(chunk);
    },
  });
  return new Response(response.body!.pipeThrough(counted)).blob();
}

/** The number of corners of all polygons in a file. @throws ApiError, or a DOMException named AbortError */
export async function countPoints(
  id: string,
  { size, tolerance, scene, masks }: Pick<ExportRequest, "size" | "tolerance" | "scene" | "masks">,
  signal: AbortSignal,
): Promise<number> {
  const path = `${sessionPath(id)}/points?size=${size}&tolerance=${tolerance}`;
  return (await json<{ points: number }>(path, { ...posted(scene, masks), signal })).points;
}

function posted(scene: Scene, masks: Masks, classes: readonly string[] = []): RequestInit {
  const frames = [...masks].map(([frame, entries]) => ({
    frame,
    masks: [...entries].map(([object, { height, width, counts }]) => ({ object, size: [height, width], counts })),
  }));
  return {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ classes, objects: scene.objects.map(exported), frames }),
  };
}

/** What files need of an object. */
export function exported({ id, name, label, clean }: SceneObject) {
  return { id, name, label, clean };
}

/**
 * An MP4 file of drawn frames with the session's sound.
 *
 * @param frames a ZIP of images in their order
 * @param job see `withJob`
 * @throws ApiError
 */
export async function encodeFrames(
  id: string,
  frames: Blob,
  quality: FileQuality,
  job: string,
  signal: AbortSignal,
): Promise<Blob> {
  const path = `${sessionPath(id)}/encode?quality=${quality}&job=${job}`;
  return (await request(path, { method: "POST", body: frames, signal })).blob();
}
