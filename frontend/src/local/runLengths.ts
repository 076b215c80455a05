import type { Mask } from "../masks/rle";
import type { Size } from "./arrays";

/** Masks to and from COCO's compressed run lengths; `../masks/rle.ts` reads and paints them. */

const ZERO = 48;
const DIGIT_BITS = 5;
const CONTINUES = 0x20;
const SIGN = 0x10;

/** The compressed string of run lengths; the first run is of zeros and may be empty. */
export function encodeCounts(runs: readonly number[]): string {
  let text = "";
  runs.forEach((run, index) => {
    let value = index > 2 ? run - runs[index - 2]! : run;
    for (let hasMore = true; hasMore;) {
      let digit = value & 0x1f;
      value >>= DIGIT_BITS;
      hasMore = digit & SIGN ? value !== -1 : value !== 0;
      if (hasMore) digit |= CONTINUES;
      text += String.fromCharCode(ZERO + digit);
    }
  });
  return text;
}

/** The mask of low-resolution logits that are interpolated to a video's size: where they are above 0. */
export function encodeLogits(logits: Float32Array, from: Size, { height, width }: Size): Mask {
  const [rows, columns] = [neighbours(from.height, height), neighbours(from.width, width)];
  const column = new Float32Array(from.height);
  const runs: number[] = [];
  let isInside = false;
  let run = 0;
  for (let x = 0; x < width; x += 1) {
    const [left, right, toRight] = [columns.low[x]!, columns.high[x]!, columns.share[x]!];
    for (let y = 0; y < from.height; y += 1) {
      const row = y * from.width;
      column[y] = (1 - toRight) * logits[row + left]! + toRight * logits[row + right]!;
    }
    for (let y = 0; y < height; y += 1) {
      const down = rows.share[y]!;
      if ((1 - down) * column[rows.low[y]!]! + down * column[rows.high[y]!]! > 0 !== isInside) {
        runs.push(run);
        run = 0;
        isInside = !isInside;
      }
      run += 1;
    }
  }
  return { height, width, counts: encodeCounts([...runs, run]) };
}

/** For each new position of a bilinear interpolation: the two old ones, and the share of the second. */
function neighbours(length: number, size: number) {
  const [low, high, share] = [new Int32Array(size), new Int32Array(size), new Float32Array(size)];
  for (let position = 0; position < size; position += 1) {
    const centre = Math.min(length - 1, Math.max(0, (length / size) * (position + 0.5) - 0.5));
    low[position] = Math.floor(centre);
    high[position] = Math.min(length - 1, low[position]! + 1);
    share[position] = centre - low[position]!;
  }
  return { low, high, share };
}
