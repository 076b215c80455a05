import { readThumbnail } from "../api/rest";
import { GREY } from "../media/grey";

const SIDE = 160; // pixels; twice the shown size
const NONE = "";

/** The address of a small image of a photograph; empty if neither this browser nor the server can read it. */
export async function thumbnailOf(file: Blob): Promise<string> {
  return (await draw(file)) || readThumbnail(file).then(draw, () => NONE); // browsers read neither TIFF nor HEIC
}

async function draw(file: Blob): Promise<string> {
  try {
    const image = await createImageBitmap(file);
    const scale = Math.min(1, SIDE / Math.min(image.width, image.height));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.ceil(image.width * scale), Math.ceil(image.height * scale)];
    const context = canvas.getContext("2d")!;
    context.imageSmoothingQuality = "high";
    context.fillStyle = GREY;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    image.close();
    return canvas.toDataURL("image/jpeg", 0.8);
  } catch {
    return NONE;
  }
}
