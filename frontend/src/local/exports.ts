import { strToU8, zipSync } from "fflate";
import { alphaOf } from "../masks/alpha";
import { maskArea, maskBounds, paintMask } from "../masks/rle";
import type { Size } from "./arrays";
import { Refusal } from "./calls";
import type { ExportTask, Task } from "./convert";
import { joined, polygonsOf, type Polygon } from "./outlines";
import { cleaned, numberedClasses, type PageMasks, type PageObject } from "./pageMasks";
import { palettePng } from "./png";
import { allFrames, type LocalVideo } from "./video";
import { exportVideo, isVideoFormat } from "./videoExports";

/** Files of the page's masks, as `sam2fast/demo/server/exports.py` writes them. */

const JPEG_QUALITY = 0.92;
export const LABELME = "5.5.0"; // the version of the format
const NOTE = "# All images are in both: divide them before you train.\n";

type Facts = Pick<LocalVideo, "fps" | "count" | "height" | "width">;

/** @param path of the video, for names in the file */
export async function exportFile(
  format: string,
  found: PageMasks,
  video: Facts,
  file: Blob,
  path: string,
  task: ExportTask,
): Promise<Blob> {
  if (format === "source_mp4") return file;
  const page = cleaned(found);
  if (page.frames.length === 0) throw new Refusal("NOT_FOUND", "there are no masks yet: click on something first", 404);
  if (isVideoFormat(format)) return exportVideo(format, page, video, file, task);
  const images = watchedFrames(file, video.count, task);
  switch (format) {
    case "masks_png":
      return zip(labelImages(page, video));
    case "coco":
      return zip(await cocoOf(page, images));
    case "coco_rle":
      return new Blob([JSON.stringify(youtubeVisOf(page, video, stemOf(path)))], { type: "application/json" });
    case "cutout":
      return zip(await cutOuts(page, images, task.feather));
    case "yolo":
      return zip(await yoloOf(page, images));
    case "labelme":
      return zip(await labelMeOf(page, images));
    default:
      throw new Refusal("BAD_INPUT", `there is no format ${format}`);
  }
}

type Images = AsyncGenerator<[number, OffscreenCanvas], void>;

async function* watchedFrames(file: Blob, count: number, { report, signal }: Task): Images {
  for await (const entry of allFrames(file)) {
    signal.throwIfAborted();
    report(entry[0] / count);
    yield entry;
  }
}

/** Palette images: 0 for the background, the ids for objects. */
function labelImages({ objects, frames }: PageMasks, { height, width }: Facts): Record<string, Uint8Array> {
  const found: Record<string, Uint8Array> = {};
  for (const { frame, masks } of frames) {
    const labels = new Uint32Array(height * width);
    for (const { id } of objects) {
      const mask = masks.find(({ object }) => object === id);
      if (mask) paintMask({ height, width, counts: mask.counts }, labels, id);
    }
    found[`${numbered(frame)}.png`] = palettePng(Uint8Array.from(labels), height, width);
  }
  return found;
}

/** Images, and `annotations.json` as pycocotools reads it. */
async function cocoOf(
  { classes: listed, objects, frames }: PageMasks,
  video: Images,
): Promise<Record<string, Uint8Array>> {
  const classes = numberedClasses(listed, objects.map(categoryOf));
  const found: Record<string, Uint8Array> = {};
  const images: object[] = [];
  const annotations: object[] = [];
  for await (const { frame, size, image } of framesWithMasks(frames, video)) {
    const name = `${numbered(frame)}.jpg`;
    images.push({ id: images.length + 1, file_name: name, ...size, frame });
    for (const { object, counts } of frames.find((entry) => entry.frame === frame)!.masks) {
      const mask = { ...size, counts };
      const bounds = maskBounds(mask);
      if (!bounds) continue;
      annotations.push({
        ...{ id: annotations.length + 1, image_id: images.length },
        category_id: classes.indexOf(categoryOf(objects.find(({ id }) => id === object)!)) + 1,
        segmentation: { size: [size.height, size.width], counts },
        ...{ bbox: [bounds.left, bounds.top, bounds.width, bounds.height], area: maskArea(mask) },
        ...{ iscrowd: 0, track_id: object },
      });
    }
    found[`images/${name}`] = image;
  }
  const categories = classes.map((name, index) => ({ id: index + 1, name }));
  found["annotations.json"] = strToU8(JSON.stringify({ images, annotations, categories }));
  return found;
}

/** YouTube-VIS, COCO's format for videos. */
function youtubeVisOf(page: PageMasks, { height, width, count, fps }: Facts, stem: string) {
  const { objects, frames } = page;
  const everyFrame = Array.from({ length: count }, (_, frame) => frame);
  const classes = numberedClasses(page.classes, objects.map(categoryOf));
  const annotations = objects.map((object, index) => {
    const { id, name } = object;
    const shown = everyFrame.map((frame) => {
      const found = frames.find((entry) => entry.frame === frame)?.masks.find(({ object }) => object === id);
      const mask = found && { height, width, counts: found.counts };
      return mask && maskArea(mask) > 0 ? mask : null;
    });
    return {
      ...{
        id: index + 1,
        video_id: 1,
        category_id: classes.indexOf(categoryOf(object)) + 1,
        iscrowd: 0,
        height,
        width,
        length: count,
        object: id,
        name,
      },
      segmentations: shown.map((mask) => mask && { size: [height, width], counts: mask.counts }),
      areas: shown.map((mask) => mask && maskArea(mask)),
      bboxes: shown.map((mask) => {
        const bounds = mask && maskBounds(mask);
        return bounds && [bounds.left, bounds.top, bounds.width, bounds.height];
      }),
    };
  });
  const names = everyFrame.map((frame) => `${stem}/${numbered(frame)}.jpg`);
  const timestamps = everyFrame.map((frame) => Math.round((1e6 * frame) / fps) / 1e6);
  return {
    videos: [{ id: 1, height, width, length: count, file_names: names, fps, timestamps }],
    annotations,
    categories: classes.map((name, index) => ({ id: index + 1, name })),
  };
}

function categoryOf({ label }: PageObject): string {
  return label || "object";
}

function classOf({ label, name }: PageObject): string {
  return label || name;
}

/** RGBA images, transparent except for the objects. */
async function cutOuts({ frames }: PageMasks, video: Images, feather: number): Promise<Record<string, Uint8Array>> {
  const found: Record<string, Uint8Array> = {};
  for await (const [frame, canvas] of video) {
    const masks = frames.find((entry) => entry.frame === frame)?.masks;
    if (!masks) continue;
    const { width, height } = canvas;
    const inside = new Uint32Array(height * width);
    for (const { counts } of masks) paintMask({ height, width, counts }, inside, 1);
    cutOut(canvas, alphaOf(inside, { height, width }, feather));
    found[`${numbered(frame)}.png`] = await bytesOf(await canvas.convertToBlob({ type: "image/png" }));
  }
  return found;
}

/** Makes what is on a canvas transparent, by the alpha of each pixel; transparent pixels become black. */
export function cutOut(canvas: OffscreenCanvas, alpha: Uint8Array): void {
  const context = canvas.getContext("2d")!;
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  alpha.forEach((value, pixel) => {
    const own = Math.round((image.data[4 * pixel + 3]! * value) / 255);
    if (own) image.data[4 * pixel + 3] = own;
    else image.data.fill(0, 4 * pixel, 4 * pixel + 4);
  });
  context.putImageData(image, 0, 0);
}

interface FrameImage {
  readonly frame: number;
  readonly size: Size;
  readonly image: Uint8Array;
}

interface LabelledFrame extends FrameImage {
  /** Its number in five digits. */
  readonly name: string;
  /** Of the masks that are not empty. */
  readonly shapes: readonly { readonly object: PageObject; readonly parts: readonly Polygon[] }[];
}

/** The frames that have masks, as JPEG. */
async function* framesWithMasks(frames: PageMasks["frames"], video: Images): AsyncGenerator<FrameImage, void> {
  for await (const [frame, canvas] of video) {
    if (!frames.some((entry) => entry.frame === frame)) continue;
    const size = { height: canvas.height, width: canvas.width };
    const image = await bytesOf(await canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY }));
    yield { frame, size, image };
  }
}

/** The same frames with polygons. */
async function* labelledFrames({ objects, frames }: PageMasks, video: Images): AsyncGenerator<LabelledFrame, void> {
  for await (const { frame, size, image } of framesWithMasks(frames, video)) {
    const masks = frames.find((entry) => entry.frame === frame)!.masks;
    const shapes = objects.flatMap((object) => {
      const mask = masks.find((entry) => entry.object === object.id);
      const parts = mask ? polygonsOf({ ...size, counts: mask.counts }) : [];
      return parts.length > 0 ? [{ object, parts }] : [];
    });
    yield { frame, name: numbered(frame), size, image, shapes };
  }
}

/** A data set as Ultralytics reads it: images, labels, and the classes' names. */
async function yoloOf(page: PageMasks, video: Images): Promise<Record<string, Uint8Array>> {
  const classes = numberedClasses(page.classes, page.objects.map(classOf));
  const found = { "data.yaml": yoloData(classes) };
  for await (const { name, size, image, shapes } of labelledFrames(page, video)) {
    const lines = shapes.map(({ object, parts }) => yoloLine(classes.indexOf(classOf(object)), parts, size));
    Object.assign(found, { [`images/${name}.jpg`]: image, [`labels/${name}.txt`]: strToU8(lines.join("")) });
  }
  return found;
}

/** @param train the folder of images for training @param val that for validation */
export function yoloData(classes: readonly string[], train = "images", val = "images"): Uint8Array {
  const names = classes.map((name, index) => `  ${index}: ${JSON.stringify(name)}\n`).join("");
  return strToU8(`${train === val ? NOTE : ""}train: ${train}\nval: ${val}\nnames:\n${names}`);
}

/** All parts and holes of an object as one polygon, from 0 to 1 of the image's size. */
export function yoloLine(number: number, parts: readonly Polygon[], { width, height }: Size): string {
  const corners = joined(parts.flatMap(({ outer, holes }) => [outer, ...holes]));
  // Rounded up, since readers that cut off decimals would get the pixel before.
  const shares = corners.flatMap(([x, y]) => [x / width, y / height]).map((share) => Math.ceil(share * 1e6) / 1e6);
  return `${[number, ...shares.map((share) => share.toFixed(6))].join(" ")}\n`;
}

/** An object's polygons, as LabelMe stores them. */
export function labelMeShapes(parts: readonly Polygon[], label: string, number: number) {
  return parts.map(({ outer, holes }) => ({
    ...{ label, points: joined([outer, ...holes]), group_id: number, description: "" },
    ...{ shape_type: "polygon", flags: {} },
  }));
}

/** Images, each with a file of polygons, as LabelMe reads them. */
async function labelMeOf(page: PageMasks, video: Images): Promise<Record<string, Uint8Array>> {
  const found: Record<string, Uint8Array> = {};
  for await (const { name, size, image, shapes } of labelledFrames(page, video)) {
    const polygons = shapes.flatMap(({ object, parts }) => labelMeShapes(parts, classOf(object), object.id));
    const names = { imagePath: `${name}.jpg`, imageData: null, imageHeight: size.height, imageWidth: size.width };
    found[`${name}.jpg`] = image;
    found[`${name}.json`] = strToU8(JSON.stringify({ version: LABELME, flags: {}, shapes: polygons, ...names }));
  }
  return found;
}

export function zip(files: Record<string, Uint8Array>): Blob {
  return new Blob([zipSync(files, { level: 0 })], { type: "application/zip" });
}

export async function bytesOf(blob: Blob): Promise<Uint8Array> {
  return new Uint8Array(await blob.arrayBuffer());
}

function numbered(frame: number): string {
  return String(frame).padStart(5, "0");
}

/** The name of the file; that of an upload is a long hash, of which 16 digits are enough. */
function stemOf(path: string): string {
  const stem = path
    .split("/")
    .pop()!
    .replace(/\.[^.]+$/, "");
  return /^[0-9a-f]{64}$/.test(stem) ? stem.slice(0, 16) : stem;
}
