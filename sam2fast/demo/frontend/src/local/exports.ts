import { zipSync } from "fflate";
import { maskArea, maskBounds, paintMask } from "../masks/rle";
import { Refusal } from "./calls";
import { outlines } from "./outlines";
import { palettePng } from "./png";
import { allFrames, type LocalVideo } from "./video";

/** Files of the page's masks, as `sam2fast/demo/server/exports.py` writes them. */

const JPEG_QUALITY = 0.92;

interface PageMask {
  readonly object: number;
  readonly size: readonly [height: number, width: number];
  readonly counts: string;
}

export interface PageMasks {
  /** In their order: where masks overlap, the later object is seen. */
  readonly objects: readonly { readonly id: number; readonly name: string }[];
  readonly frames: readonly { readonly frame: number; readonly masks: readonly PageMask[] }[];
}

type Facts = Pick<LocalVideo, "fps" | "count" | "height" | "width">;

/** @param path of the video, for names in the file */
export async function exportFile(
  format: string,
  page: PageMasks,
  video: Facts,
  file: Blob,
  path: string,
): Promise<Blob> {
  if (page.frames.length === 0) throw new Refusal("NOT_FOUND", "there are no masks yet: click on something first", 404);
  switch (format) {
    case "masks_png":
      return zip(labelImages(page, video));
    case "coco_rle":
      return new Blob([JSON.stringify(cocoOf(page, video, stemOf(path)))], { type: "application/json" });
    case "cutout":
      return zip(await cutOuts(page, file));
    case "yolo":
      return zip(await yoloOf(page, file));
    default:
      throw new Refusal("BAD_INPUT", `there is no format ${format}`);
  }
}

/** Palette images: 0 for the background, 1 for the first object, ... */
function labelImages({ objects, frames }: PageMasks, { height, width }: Facts): Record<string, Uint8Array> {
  const found: Record<string, Uint8Array> = {};
  for (const { frame, masks } of frames) {
    const labels = new Uint32Array(height * width);
    objects.forEach(({ id }, index) => {
      const mask = masks.find(({ object }) => object === id);
      if (mask) paintMask({ height, width, counts: mask.counts }, labels, index + 1);
    });
    found[`${numbered(frame)}.png`] = palettePng(Uint8Array.from(labels), height, width);
  }
  return found;
}

/** COCO's format for videos. */
function cocoOf({ objects, frames }: PageMasks, { height, width, count, fps }: Facts, stem: string) {
  const everyFrame = Array.from({ length: count }, (_, frame) => frame);
  const annotations = objects.map(({ id, name }, index) => {
    const shown = everyFrame.map((frame) => {
      const found = frames.find((entry) => entry.frame === frame)?.masks.find(({ object }) => object === id);
      const mask = found && { height, width, counts: found.counts };
      return mask && maskArea(mask) > 0 ? mask : null;
    });
    return {
      ...{ id: index + 1, video_id: 1, category_id: 1, iscrowd: 0, height, width, length: count, object: id, name },
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
    categories: [{ id: 1, name: "object", supercategory: "object" }],
  };
}

/** RGBA images, transparent except for the objects. */
async function cutOuts({ frames }: PageMasks, file: Blob): Promise<Record<string, Uint8Array>> {
  const found: Record<string, Uint8Array> = {};
  for await (const [frame, canvas] of allFrames(file)) {
    const masks = frames.find((entry) => entry.frame === frame)?.masks;
    if (!masks) continue;
    const { width, height } = canvas;
    const inside = new Uint32Array(height * width);
    for (const { counts } of masks) paintMask({ height, width, counts }, inside, 1);
    const context = canvas.getContext("2d")!;
    const image = context.getImageData(0, 0, width, height);
    const pixels = new Uint32Array(image.data.buffer);
    inside.forEach((value, pixel) => {
      if (!value) pixels[pixel] = 0;
    });
    context.putImageData(image, 0, 0);
    found[`${numbered(frame)}.png`] = await bytesOf(await canvas.convertToBlob({ type: "image/png" }));
  }
  return found;
}

/** A data set of the frames that have masks, as Ultralytics reads it: images, labels, and the classes' names. */
async function yoloOf({ objects, frames }: PageMasks, file: Blob): Promise<Record<string, Uint8Array>> {
  const names = objects.map(({ name }, index) => `  ${index}: ${JSON.stringify(name)}\n`).join("");
  const text = (content: string) => new TextEncoder().encode(content);
  const found = { "data.yaml": text(`path: .\ntrain: images\nval: images\nnames:\n${names}`) };
  for await (const [frame, canvas] of allFrames(file)) {
    const masks = frames.find((entry) => entry.frame === frame)?.masks;
    if (!masks) continue;
    const { width, height } = canvas;
    const lines = objects.flatMap(({ id }, index) => {
      const mask = masks.find(({ object }) => object === id);
      const shares = mask ? outlines({ height, width, counts: mask.counts }) : [];
      return shares.map((outline) => `${index} ${outline.map(([x, y]) => `${x / width} ${y / height}`).join(" ")}\n`);
    });
    const image = await canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
    Object.assign(found, {
      [`images/${numbered(frame)}.jpg`]: await bytesOf(image),
      [`labels/${numbered(frame)}.txt`]: text(lines.join("")),
    });
  }
  return found;
}

function zip(files: Record<string, Uint8Array>): Blob {
  return new Blob([zipSync(files, { level: 0 })], { type: "application/zip" });
}

async function bytesOf(blob: Blob): Promise<Uint8Array> {
  return new Uint8Array(await blob.arrayBuffer());
}

function numbered(frame: number): string {
  return String(frame).padStart(5, "0");
}

function stemOf(path: string): string {
  return path
    .split("/")
    .pop()!
    .replace(/\.[^.]+$/, "")
    .slice(0, 16);
}
