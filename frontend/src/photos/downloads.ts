import { unzipSync } from "fflate";
import { exported, request, type PhotoKind } from "../api/rest";
import { edgesQuery } from "../media/edges";
import type { Project } from "../project/project";
import { namesOf } from "../scene/classes";
import { counted } from "../scene/counted";
import { joinClasses } from "../state/classes";
import { getState, notify } from "../state/store";
import { countObjects, workOn, type PhotoItem } from "./list";

export interface PhotoFormat {
  readonly name: string;
  readonly what: string;
  /** Follows the photograph's name in the name of the file. */
  readonly suffix: string;
  readonly kind: PhotoKind;
}

export const PHOTO_FORMATS: readonly PhotoFormat[] = [
  { name: "COCO", what: "All masks with their classes, in one file (JSON).", suffix: "_coco.zip", kind: "coco" },
  { name: "YOLO", what: "Images, polygons and the list of classes.", suffix: "_yolo.zip", kind: "yolo-seg" },
  { name: "YOLO boxes", what: "Images, boxes and the list of classes.", suffix: "_yolo_boxes.zip", kind: "yolo" },
  { name: "LabelMe", what: "Images, each with a file of polygons.", suffix: "_labelme.zip", kind: "labelme" },
  {
    name: "Label Studio",
    what: "Images, each with brush masks to import.",
    suffix: "_label_studio.zip",
    kind: "label-studio",
  },
  { name: "PNG masks", what: "A palette image each: 0 is the background.", suffix: "_masks.zip", kind: "png" },
  { name: "GeoJSON", what: "Polygons in pixels.", suffix: "_geojson.zip", kind: "geojson" },
  {
    name: "Cut-outs",
    what: "The objects alone, transparent around them (PNG).",
    suffix: "_cutouts.zip",
    kind: "cutout",
  },
];

const SPLIT_KINDS: readonly PhotoKind[] = ["coco", "yolo", "yolo-seg"];

/** A division of photographs for training: the percentage of validation, and the seed that chooses it. */
export interface Split {
  readonly percent: number;
  readonly seed: number;
}

interface PhotoOptions {
  readonly tolerance: number;
  readonly split: Split | null;
  /** Whether cut-outs end near the objects. */
  readonly crop: boolean;
}

/** A photograph with its work; it was opened. */
interface Opened {
  readonly item: PhotoItem;
  readonly work: Project;
}

/** The photographs that have masks, with their work; says which have clicks alone. */
export async function withMasks(items: readonly PhotoItem[]): Promise<Opened[]> {
  const found = await Promise.all(items.map(async (item) => ({ item, work: await workOn(item) })));
  const unanswered = found.filter(({ work }) => work && work.masks.length === 0 && countObjects(work.scene) > 0);
  if (unanswered.length > 0) {
    const names = unanswered.map(({ item }) => item.name).join(", ");
    const [have, them] = unanswered.length === 1 ? ["has", "it"] : ["have", "them"];
    const what = `${counted(unanswered.length, "photograph")} ${have} clicks without masks`;
    notify("error", `${what}; open ${them} first: ${names}`);
  }
  return found.flatMap(({ item, work }) => (work && work.masks.length > 0 ? { item, work } : []));
}

/**
 * A ZIP of the masks of photographs; it is split if its kind can be.
 *
 * @throws ApiError, or a DOMException named AbortError after `signal`
 */
export async function exportPhotos(
  kind: PhotoKind,
  { tolerance, split, crop }: PhotoOptions,
  photos: readonly Opened[],
  signal: AbortSignal,
): Promise<Blob> {
  joinClasses(photos.flatMap(({ work }) => work.scene.objects)); // those that were saved before there was a list
  const photographs = photos.map(({ item, work: { clip, scene, masks } }) => ({
    path: clip.path,
    name: item.name,
    objects: scene.objects.map(exported),
    frames: [{ frame: 0, masks: masks.map(({ object, size, counts }) => ({ object, size, counts })) }],
  }));
  const form = kind === "cutout" ? `${edgesQuery(getState().edges)}${crop ? "&crop=true" : ""}` : "";
  const parts = split && SPLIT_KINDS.includes(kind) ? `&validation=${split.percent}&seed=${split.seed}` : "";
  const response = await request(`/api/photographs/export?format=${kind}&tolerance=${tolerance}${form}${parts}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ classes: namesOf(getState().classes), photographs }),
    signal,
  });
  return response.blob();
}

/** The cut-out of a photograph, PNG. @throws ApiError */
export async function cutoutOf(item: PhotoItem, crop: boolean): Promise<Blob> {
  const zip = await exportPhotos(
    "cutout",
    { tolerance: 0, split: null, crop },
    await withMasks([item]),
    new AbortController().signal,
  );
  const [png] = Object.values(unzipSync(new Uint8Array(await zip.arrayBuffer())));
  return new Blob([png as BlobPart], { type: "image/png" });
}
