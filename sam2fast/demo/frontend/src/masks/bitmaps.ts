import type { MaskEntry } from "./masks";
import { paintMask, type Mask } from "./rle";

const MAX_PIXELS = 16 * 1024 * 1024; // of the cache; four bytes each

/** A cache of masks as canvases in their object's colour, transparent outside. */
export class MaskBitmaps {
  private readonly cache = new Map<MaskEntry, { colour: string; canvas: HTMLCanvasElement }>();
  private pixels = 0;

  get(entry: MaskEntry, colour: string): HTMLCanvasElement {
    const found = this.cache.get(entry);
    if (found?.colour === colour) {
      this.cache.delete(entry); // moves it to the newest end
      this.cache.set(entry, found);
      return found.canvas;
    }
    if (found) this.forget(entry);
    const canvas = maskCanvas(entry, colour);
    this.cache.set(entry, { colour, canvas });
    this.pixels += entry.width * entry.height;
    for (const oldest of this.cache.keys()) {
      if (this.pixels <= MAX_PIXELS || oldest === entry) break;
      this.forget(oldest);
    }
    return canvas;
  }

  private forget(entry: MaskEntry): void {
    if (this.cache.delete(entry)) this.pixels -= entry.width * entry.height;
  }
}

/** A mask as a canvas in a colour, `#rrggbb`, transparent outside. */
export function maskCanvas(mask: Mask, colour: string): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = mask.width;
  canvas.height = mask.height;
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(mask.width, mask.height);
  paintMask(mask, new Uint32Array(image.data.buffer), littleEndian(colour));
  context.putImageData(image, 0, 0);
  return canvas;
}

/** `#rrggbb` as an opaque pixel of ImageData, stored as ABGR on little-endian machines. */
function littleEndian(colour: string): number {
  const rgb = parseInt(colour.slice(1), 16);
  return (0xff000000 | ((rgb & 0xff) << 16) | (rgb & 0xff00) | (rgb >> 16)) >>> 0;
}
