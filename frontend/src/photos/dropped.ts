import type { Size } from "../scene/geometry";

/** The files that were dropped, also those in folders. Called in the event: the browser forgets them after it. */
export async function droppedFiles(transfer: DataTransfer): Promise<File[]> {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry());
  const files = [...transfer.files];
  if (!entries.some((entry) => entry?.isDirectory)) return files;
  return (await Promise.all(entries.map((entry) => (entry ? filesIn(entry) : Promise.resolve([]))))).flat();
}

async function filesIn(entry: FileSystemEntry): Promise<File[]> {
  if (entry.isFile) {
    return [await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject))];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: FileSystemEntry[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) break; // browsers hand out a hundred at a time
    found.push(...some);
  }
  const visible = found.filter(({ name }) => !name.startsWith("."));
  return (await Promise.all(visible.map(filesIn))).flat();
}

const PNG_SIGNATURE = 0x89504e47;
const [WIDTH, HEIGHT, COLOUR_TYPE] = [16, 20, 25]; // positions in the file
const MASK_TYPES = [0, 3]; // grey and palette
const MAX_LABELS = 64; // colours; photographs have more
const COUNTED = 512; // pixels per side

/**
 * Whether a PNG file may be a label image of what is open rather than a photograph: grey or with a palette, of the same
 * shape, and of few colours.
 *
 * @param open the size of what is open; null for nothing
 */
export async function mayBeLabels(file: File, open: Size | null): Promise<boolean> {
  const head = new DataView(await file.slice(0, COLOUR_TYPE + 1).arrayBuffer());
  if (!open || head.byteLength <= COLOUR_TYPE || head.getUint32(0) !== PNG_SIGNATURE) return false;
  const [width, height] = [head.getUint32(WIDTH), head.getUint32(HEIGHT)];
  const isOfItsShape = Math.abs(width * open.height - height * open.width) <= Math.max(open.width, open.height);
  return MASK_TYPES.includes(head.getUint8(COLOUR_TYPE)) && isOfItsShape && (await countColours(file)) <= MAX_LABELS;
}

/** The colours of an image, of a grid of its pixels if it is large; 0 if this browser cannot read it. */
async function countColours(file: File): Promise<number> {
  try {
    const image = await createImageBitmap(file);
    const [width, height] = [Math.min(COUNTED, image.width), Math.min(COUNTED, image.height)];
    const context = new OffscreenCanvas(width, height).getContext("2d")!;
    context.imageSmoothingEnabled = false;
    context.drawImage(image, 0, 0, width, height);
    image.close();
    return new Set(new Uint32Array(context.getImageData(0, 0, width, height).data.buffer)).size;
  } catch {
    return 0;
  }
}
