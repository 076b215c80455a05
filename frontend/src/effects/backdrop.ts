import type { Size } from "../scene/geometry";
import { fill, type Context } from "./canvases";

/** The user's image behind the objects. A look has its address, of the scheme `data:`, so that projects have it. */

const LONGER = 1920; // pixels of the longer side that are kept
const NONE = "#9aa4b2"; // as long as there is no image
const QUALITY = 0.9; // of JPEG
export const MAX_BACKDROP = 2e7; // characters

const KEPT = 3; // a download may draw another image than the page
const images = new Map<string, HTMLImageElement>(); // decoded ones, by address

/** Decodes the image of a look before it is drawn. */
export async function loadBackdrop(address = ""): Promise<void> {
  if (address === "") return;
  const image = images.get(address) ?? new Image();
  if (image.src !== address) {
    image.src = address;
    await image.decode().catch(() => undefined);
  }
  images.delete(address);
  images.set(address, image); // the newest
  if (images.size > KEPT) images.delete(images.keys().next().value!);
}

/** Draws the image so that it covers the frame; grey before it is loaded. */
export function drawBackdrop(context: Context, size: Size, address: string): void {
  const { width, height } = size;
  const image = images.get(address);
  if (!image?.naturalWidth) return fill(context, size, NONE);
  const scale = Math.max(width / image.naturalWidth, height / image.naturalHeight);
  const [across, down] = [scale * image.naturalWidth, scale * image.naturalHeight];
  context.drawImage(image, (width - across) / 2, (height - down) / 2, across, down);
}

/** The address of an image file, reduced. @throws Error if the browser cannot read it */
export async function readBackdrop(file: Blob): Promise<string> {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGER / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.ceil(bitmap.width * scale), Math.ceil(bitmap.height * scale)];
  canvas.getContext("2d")!.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", QUALITY);
}
