import { alphaOf } from "./alpha";
import type { MaskEntry } from "./masks";
import { paintMask, type Mask } from "./rle";

const MAX_PIXELS = 16 * 1024 * 1024; // of the cache; four bytes each
const MAX_CANVAS = 3 * 1024 * 1024; // pixels of a mask's canvas; larger masks, of photographs, are reduced

/** A cache of masks as canvases in their object's colour, transparent outside. */
export class MaskBitmaps {
  private readonly cache = new Map<MaskEntry, { colour: string; canvas: HTMLCanvasElement }>();
  private pixels = 0;

  /** @param feather see `maskCanvas` */
  constructor(private readonly feather = 0) {}

  get(entry: MaskEntry, colour: string): HTMLCanvasElement {
    const found = this.cache.get(entry);
    if (found?.colour === colour) {
      this.cache.delete(entry); // moves it to the newest end
      this.cache.set(entry, found);
      return found.canvas;
    }
    if (found) this.forget(entry);
    const canvas = maskCanvas(entry, colour, this.feather);
    this.cache.set(entry, { colour, canvas });
    this.pixels += canvas.width * canvas.height;
    for (const oldest of this.cache.keys()) {
      if (this.pixels <= MAX_PIXELS || oldest === entry) break;
      this.forget(oldest);
    }
    return canvas;
  }

  private forget(entry: MaskEntry): void {
    const found = this.cache.get(entry);
    if (!found) return;
    this.cache.delete(entry);
    this.pixels -= found.canvas.width * found.canvas.height;
  }
}

/**
 * A mask as a canvas in a colour, `#rrggbb`, transparent outside; a large one in a part of its size.
 *
 * @param feather pixels of the mask over which its outline is soft: see `alphaOf`
 */
export function maskCanvas(mask: Mask, colour: string, feather = 0): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  const step = Math.ceil(Math.sqrt((mask.width * mask.height) / MAX_CANVAS));
  canvas.width = Math.ceil(mask.width / step);
  canvas.height = Math.ceil(mask.height / step);
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  paintMask(mask, pixels, littleEndian(colour), step);
  if (feather) {
    const alpha = alphaOf(pixels, canvas, feather / step);
    pixels.fill(littleEndian(colour));
    alpha.forEach((value, pixel) => (image.data[4 * pixel + 3] = value));
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** A matte, white on black, as a canvas in a colour, transparent where it is black. */
export async function matteCanvas(matte: Blob, colour: string): Promise<HTMLCanvasElement> {
  const image = await createImageBitmap(matte);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d")!;
  context.drawImage(image, 0, 0);
  image.close();
  const data = context.getImageData(0, 0, canvas.width, canvas.height);
  const pixels = new Uint32Array(data.data.buffer);
  const opaque = littleEndian(colour) & 0xffffff;
  pixels.forEach((grey, pixel) => (pixels[pixel] = opaque | (grey << 24)));
  context.putImageData(data, 0, 0);
  return canvas;
}

/** `#rrggbb` as an opaque pixel of ImageData, stored as ABGR on little-endian machines. */
function littleEndian(colour: string): number {
  const rgb = parseInt(colour.slice(1), 16);
  return (0xff000000 | ((rgb & 0xff) << 16) | (rgb & 0xff00) | (rgb >> 16)) >>> 0;
}
