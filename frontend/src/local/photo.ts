import { GREY } from "../media/grey";
import type { Size } from "./arrays";
import { Refusal } from "./calls";
import { resample } from "./resample";
import type { Frames } from "./tracker";

/** Photographs: sessions of one frame. */

export const PHOTO_ENDINGS = [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".avif"]; // browsers read no TIFF
const MAX_PIXELS = 1 << 26;
const QUALITY = 0.95; // of a JPEG file that had to be rotated
const ORIENTATION = 0x0112; // of EXIF; 1 is upright

export class LocalPhoto implements Frames {
  readonly count = 1;
  readonly fps = null;

  private constructor(
    private readonly pixels: Uint8Array,
    readonly height: number,
    readonly width: number,
  ) {}

  /** @param side of the model's input @throws Refusal if this browser cannot read it */
  static async open(file: Blob, side: number): Promise<LocalPhoto> {
    const { canvas, context } = await drawn(file);
    const { height, width } = canvas;
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = GREY;
    context.fillRect(0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    return new LocalPhoto(resample(data, { height, width }, side), height, width);
  }

  read(): Promise<Uint8Array> {
    return Promise.resolve(this.pixels);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** A file of the library's, which is a photograph by its ending. */
export function isPhotoFile(name: string): boolean {
  return PHOTO_ENDINGS.some((ending) => name.toLowerCase().endsWith(ending));
}

/** The photograph in its full size on a canvas, upright. @throws Refusal if this browser cannot read it */
export async function drawn(
  file: Blob,
): Promise<{ canvas: OffscreenCanvas; context: OffscreenCanvasRenderingContext2D }> {
  const image = await createImageBitmap(file).catch(() => {
    throw new Refusal("BAD_PHOTO", "this browser cannot read the photograph; convert it to JPEG or PNG", 422);
  });
  const { width, height } = image;
  if (width * height > MAX_PIXELS) {
    const most = Math.round(MAX_PIXELS / 1e6);
    throw new Refusal(
      "BAD_PHOTO",
      `the photograph has ${width}x${height} pixels; at most ${most} million are accepted`,
      422,
    );
  }
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.drawImage(image, 0, 0);
  image.close();
  return { canvas, context };
}

/** A photograph as it is kept: the file itself, unless it is not upright or of a format for exports. */
export async function convertPhoto(file: File): Promise<{ photo: Blob; suffix: string; size: Size }> {
  const { canvas } = await drawn(file);
  const { width, height } = canvas;
  const head = new DataView(await file.slice(0, 1 << 16).arrayBuffer());
  const size = { width, height };
  if (isJpeg(head)) {
    const photo =
      orientationOf(head) === 1 ? file : await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
    return { photo, suffix: ".jpg", size };
  }
  const suffix = /\.webp$/i.test(file.name) ? ".webp" : ".png";
  const isKept = suffix === ".webp" || /\.png$/i.test(file.name);
  return { photo: isKept ? file : await canvas.convertToBlob({ type: "image/png" }), suffix, size };
}

function isJpeg(head: DataView): boolean {
  return head.byteLength > 3 && head.getUint16(0) === 0xffd8;
}

/** EXIF's orientation of a JPEG file; 1 if it has none. @param head its first bytes */
export function orientationOf(head: DataView): number {
  try {
    for (let at = 2; head.getUint8(at) === 0xff; at += 2 + head.getUint16(at + 2)) {
      if (head.getUint16(at) !== 0xffe1 || head.getUint32(at + 4) !== 0x45786966) continue; // APP1 with "Exif"
      const tiff = at + 10;
      const little = head.getUint16(tiff) === 0x4949;
      const directory = tiff + head.getUint32(tiff + 4, little);
      const count = head.getUint16(directory, little);
      for (let entry = directory + 2; entry < directory + 2 + 12 * count; entry += 12) {
        if (head.getUint16(entry, little) === ORIENTATION) return head.getUint16(entry + 8, little);
      }
    }
  } catch {
    // It is damaged, or longer than what was read.
  }
  return 1;
}
