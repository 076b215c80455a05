import { zlibSync } from "fflate";

/** Palette images as PNG. */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const COLOURS = 256;

/** @param labels a palette index for each pixel, row by row; the colours are DAVIS's */
export function palettePng(labels: Uint8Array, height: number, width: number): Uint8Array {
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header.set([8, 3], 8); // bits of a pixel, and the kind: indices into a palette
  const rows = new Uint8Array(height * (width + 1)); // each begins with its filter, 0 for none
  for (let y = 0; y < height; y += 1) rows.set(labels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const parts = [
    Uint8Array.from(SIGNATURE),
    chunk("IHDR", header),
    chunk("PLTE", palette()),
    chunk("IDAT", zlibSync(rows, { level: 1 })),
    chunk("IEND", new Uint8Array()),
  ];
  const image = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let start = 0;
  for (const part of parts) {
    image.set(part, start);
    start += part.length;
  }
  return image;
}

/** The bits 3k, 3k + 1 and 3k + 2 of an index are bit 7 - k of its red, green and blue. */
function palette(): Uint8Array {
  const colours = new Uint8Array(3 * COLOURS);
  for (let index = 0; index < COLOURS; index += 1) {
    for (let bit = 0; bit < 8; bit += 1) {
      colours[3 * index + (bit % 3)]! |= ((index >> bit) & 1) << (7 - Math.floor(bit / 3));
    }
  }
  return colours;
}

function chunk(name: string, content: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(content.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(content, 8);
  view.setUint32(content.length + 8, checksum(bytes.subarray(4, content.length + 8)));
  return bytes;
}

/** CRC-32. */
function checksum(bytes: Uint8Array): number {
  let value = ~0;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit += 1) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
  }
  return ~value >>> 0;
}
