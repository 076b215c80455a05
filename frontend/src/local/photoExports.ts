import { strToU8 } from "fflate";
import { alphaOf } from "../masks/alpha";
import { maskArea, maskBounds, maskOf, paintMask, type Mask } from "../masks/rle";
import type { Size } from "./arrays";
import { Refusal } from "./calls";
import { bytesOf, cutOut, labelMeShapes, LABELME, yoloData, yoloLine, zip } from "./exports";
import { polygonsOf } from "./outlines";
import { cleaned, numberedClasses, type PageMasks } from "./pageMasks";
import { drawn } from "./photo";
import { palettePng } from "./png";
import { validationOf, type Split } from "./split";

/** ZIPs of the masks of photographs, with the files that `sam2fast/results` writes. */

const NO_CLASS = "object";
const CROP_MARGIN = 8; // pixels around the objects

export interface PhotosRequest {
  readonly classes: PageMasks["classes"];
  readonly photographs: readonly (Omit<PageMasks, "classes"> & { readonly path: string; readonly name: string })[];
}

interface Photo {
  readonly path: string;
  readonly stem: string;
  readonly name: string;
  readonly masks: readonly { readonly mask: Mask; readonly label: string }[];
}

interface Data {
  readonly photos: readonly Photo[];
  readonly classes: readonly string[];
  readonly read: (path: string) => Promise<Blob>;
  /** Pixels of soft outlines, and whether images end near the objects. */
  readonly form: { readonly feather: number; readonly crop: boolean };
}

type Files = Record<string, Uint8Array>;

/**
 * @param split into a data set in `train` and one in `val`; null for a single one
 * @param read a photograph's file
 * @param form of cut-outs
 */
export async function exportPhotos(
  kind: string,
  request: PhotosRequest,
  split: Split | null,
  read: Data["read"],
  form: Data["form"],
): Promise<Blob> {
  const photos = photosOf(request).filter(({ masks }) => masks.length > 0);
  if (photos.length === 0) throw new Refusal("NOT_FOUND", "there are no masks yet: click on something first", 404);
  const labels = photos.flatMap(({ masks }) => masks.map(({ label }) => label));
  const classes = numberedClasses(request.classes, labels);
  const write = WRITERS[kind];
  if (!write) throw new Refusal("BAD_INPUT", `${kind} needs sam2fast serve: this page has no server`);
  if (!split) return zip(await write({ photos, classes, read, form }));
  const validation = await validationOf(new Set(photos.map(({ path }) => nameOf(path))), split);
  const files: Files = {};
  for (const part of ["train", "val"]) {
    const chosen = photos.filter(({ path }) => validation.has(nameOf(path)) === (part === "val"));
    if (chosen.length === 0) continue;
    const { "data.yaml": yolo, ...others } = await write({ photos: chosen, classes, read, form });
    for (const [name, content] of Object.entries(others)) files[`${part}/${name}`] = content;
    if (yolo) files["data.yaml"] = yoloData(classes, "train/images", `${part}/images`); // the last part
  }
  return zip(files);
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

const WRITERS: Record<string, (data: Data) => Promise<Files>> = {
  coco: (data) => Promise.resolve(cocoOf(data)),
  yolo: (data) => yoloOf(data, boxValues),
  "yolo-seg": (data) => yoloOf(data, null),
  labelme: labelMeOf,
  png: (data) => Promise.resolve(labelImages(data)),
  cutout: cutOuts,
};

function photosOf({ photographs }: PhotosRequest): Photo[] {
  const taken = new Set<string>();
  return photographs.map(({ path, name, ...page }) => {
    const { objects, frames } = cleaned(page);
    const [, stem = "photograph", ending = ""] = /^(.+?)(\.[^.]*)?$/.exec(name.replace(/[\\/:*?"<>|]/g, "_")) ?? [];
    let unique = stem;
    for (let number = 2; taken.has(unique.toLowerCase()); number += 1) unique = `${stem}_${number}`;
    taken.add(unique.toLowerCase());
    const masks = objects.flatMap(({ id, label }) => {
      const found = frames[0]?.masks.find(({ object }) => object === id);
      const mask = found && { height: found.size[0], width: found.size[1], counts: found.counts };
      return mask && maskArea(mask) > 0 ? [{ mask, label: label || NO_CLASS }] : [];
    });
    return { path, stem: unique, name: unique + ending, masks };
  });
}

function cocoOf({ photos, classes }: Data): Files {
  const images = photos.map(({ name, masks: [first] }, index) => {
    return { id: index + 1, file_name: name, height: first!.mask.height, width: first!.mask.width };
  });
  const annotations = photos.flatMap(({ masks }, index) =>
    masks.map(({ mask, label }) => {
      const { left, top, width, height } = maskBounds(mask);
      return {
        ...{ image_id: index + 1, category_id: classes.indexOf(label) + 1 },
        segmentation: { size: [mask.height, mask.width], counts: mask.counts },
        ...{ bbox: [left, top, width, height], area: maskArea(mask), iscrowd: 0, score: 1 },
      };
    }),
  );
  const numbered = annotations.map((annotation, index) => ({ id: index + 1, ...annotation }));
  const categories = classes.map((name, index) => ({ id: index + 1, name }));
  return { "masks.json": strToU8(JSON.stringify({ images, categories, annotations: numbered })) };
}

/** The file of a photograph with the ending that it is kept under. */
async function imageOf({ path, stem }: Photo, read: Data["read"]): Promise<[name: string, content: Uint8Array]> {
  return [stem + path.slice(path.lastIndexOf(".")), await bytesOf(await read(path))];
}

/** @param values the numbers of an object; null for its polygon */
async function yoloOf({ photos, classes, read }: Data, values: ((mask: Mask) => number[]) | null): Promise<Files> {
  const found: Files = { "data.yaml": yoloData(classes) };
  for (const photo of photos) {
    const [name, content] = await imageOf(photo, read);
    const lines = photo.masks.map(({ mask, label }) => {
      const number = classes.indexOf(label);
      if (!values) return yoloLine(number, polygonsOf(mask), mask);
      return `${[number, ...values(mask).map((value) => value.toFixed(6))].join(" ")}\n`;
    });
    found[`images/${name}`] = content;
    found[`labels/${photo.stem}.txt`] = strToU8(lines.join(""));
  }
  return found;
}

/** Middle and size of the box, as shares of the image's. */
function boxValues(mask: Mask): number[] {
  const { left, top, width, height } = maskBounds(mask);
  return [(left + width / 2) / mask.width, (top + height / 2) / mask.height, width / mask.width, height / mask.height];
}

async function labelMeOf({ photos, read }: Data): Promise<Files> {
  const found: Files = {};
  for (const photo of photos) {
    const [name, content] = await imageOf(photo, read);
    const { height, width }: Size = photo.masks[0]!.mask;
    const shapes = photo.masks.flatMap(({ mask, label }, index) => labelMeShapes(polygonsOf(mask), label, index + 1));
    const names = { imagePath: name, imageData: null, imageHeight: height, imageWidth: width };
    found[name] = content;
    found[`${photo.stem}.json`] = strToU8(JSON.stringify({ version: LABELME, flags: {}, shapes, ...names }));
  }
  return found;
}

/** Palette images: 0 for the background, 1 for the first object, ... */
function labelImages({ photos }: Data): Files {
  return Object.fromEntries(
    photos.map(({ stem, masks }) => {
      const { height, width } = masks[0]!.mask;
      const labels = new Uint32Array(height * width);
      masks.forEach(({ mask }, index) => paintMask(mask, labels, index + 1));
      return [`${stem}_masks.png`, palettePng(Uint8Array.from(labels), height, width)];
    }),
  );
}

/** RGBA images, transparent except for the objects. */
async function cutOuts({ photos, read, form: { feather, crop } }: Data): Promise<Files> {
  const found: Files = {};
  for (const { path, stem, masks } of photos) {
    const { canvas } = await drawn(await read(path));
    const inside = new Uint32Array(canvas.height * canvas.width);
    for (const { mask } of masks) paintMask(mask, inside, 1);
    const alpha = alphaOf(inside, canvas, feather);
    cutOut(canvas, alpha);
    const shown = crop ? cropped(canvas, maskBounds(maskOf(alpha, canvas))) : canvas;
    found[`${stem}.png`] = await bytesOf(await shown.convertToBlob({ type: "image/png" }));
  }
  return found;
}

/** A part of a canvas, with a margin. */
function cropped(canvas: OffscreenCanvas, { left, top, width, height }: ReturnType<typeof maskBounds>) {
  const [x, y] = [Math.max(0, left - CROP_MARGIN), Math.max(0, top - CROP_MARGIN)];
  const [right, bottom] = [left + width + CROP_MARGIN, top + height + CROP_MARGIN];
  const part = new OffscreenCanvas(Math.min(canvas.width, right) - x, Math.min(canvas.height, bottom) - y);
  part.getContext("2d")!.drawImage(canvas, -x, -y);
  return part;
}
