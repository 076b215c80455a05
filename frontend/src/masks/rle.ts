/** COCO's compressed run lengths: alternating runs of 0 and 1, down the columns, as text. */

export interface Mask {
  readonly height: number;
  readonly width: number;
  /** COCO's compressed string. */
  readonly counts: string;
}

const ZERO = 48; // the character code of digit 0
const DIGIT_BITS = 5;
const CONTINUES = 0x20;
const SIGN = 0x10;

/** The run lengths of a compressed string; the first run is of zeros and may be empty. */
export function decodeCounts(text: string): number[] {
  const runs: number[] = [];
  let position = 0;
  while (position < text.length) {
    let value = 0;
    let shift = 0;
    let digit: number;
    do {
      digit = text.charCodeAt(position) - ZERO;
      if (!(digit >= 0 && digit < 64)) throw new Error(`run lengths are broken at character ${position}`);
      value |= (digit & 0x1f) << shift;
      shift += DIGIT_BITS;
      position += 1;
    } while (digit & CONTINUES);
    if (digit & SIGN) value |= -1 << shift;
    // From the fourth on, a run is stored as the difference to the run two before it.
    if (runs.length > 2) value += runs[runs.length - 2]!;
    runs.push(value);
  }
  return runs;
}

/** The compressed string of run lengths; see `decodeCounts`. */
export function encodeCounts(runs: readonly number[]): string {
  let text = "";
  runs.forEach((run, index) => {
    let value = index > 2 ? run - runs[index - 2]! : run;
    let continues = true;
    while (continues) {
      const digit = value & 0x1f;
      value >>= DIGIT_BITS;
      continues = digit & SIGN ? value !== -1 : value !== 0;
      text += String.fromCharCode(ZERO + digit + (continues ? CONTINUES : 0));
    }
  });
  return text;
}

/** The mask of all pixels that are not 0. @param pixels `height * width` values, row by row */
export function maskOf(pixels: ArrayLike<number>, { height, width }: { height: number; width: number }): Mask {
  const runs: number[] = [];
  let [run, inside] = [0, false];
  for (let x = 0; x < width; x += 1) {
    for (let y = 0; y < height; y += 1) {
      if ((pixels[y * width + x] !== 0) !== inside) {
        runs.push(run);
        [run, inside] = [0, !inside];
      }
      run += 1;
    }
  }
  runs.push(run);
  return { height, width, counts: encodeCounts(runs) };
}

/** The number of pixels inside. */
export function maskArea(mask: Mask): number {
  return decodeCounts(mask.counts).reduce((area, run, index) => (index % 2 ? area + run : area), 0);
}

/** The smallest rectangle around the pixels inside; empty for an empty mask. */
export function maskBounds(mask: Mask): { left: number; top: number; width: number; height: number } {
  let [left, right, top, bottom] = [mask.width, 0, mask.height, 0];
  let start = 0;
  decodeCounts(mask.counts).forEach((run, index) => {
    const end = start + run;
    if (index % 2 && run > 0) {
      const [first, last] = [Math.floor(start / mask.height), Math.floor((end - 1) / mask.height)];
      left = Math.min(left, first);
      right = Math.max(right, last + 1);
      // A run that continues in the next column has the last row of one and the first of the other.
      top = first === last ? Math.min(top, start % mask.height) : 0;
      bottom = first === last ? Math.max(bottom, ((end - 1) % mask.height) + 1) : mask.height;
    }
    start = end;
  });
  return { left, top, width: Math.max(0, right - left), height: Math.max(0, bottom - top) };
}

/** Whether the pixel `(x, y)` is inside. */
export function maskHas(mask: Mask, x: number, y: number): boolean {
  if (x < 0 || y < 0 || x >= mask.width || y >= mask.height) return false;
  const wanted = x * mask.height + y;
  let end = 0;
  let inside = false;
  for (const run of decodeCounts(mask.counts)) {
    end += run;
    if (wanted < end) return inside;
    inside = !inside;
  }
  return false;
}

/**
 * Sets every pixel inside to `value`.
 *
 * @param pixels `height * width` values, row by row: in contrast to the runs, which go down the columns.
 * @param step with more than 1, `pixels` are those of every so many rows and columns
 */
export function paintMask(mask: Mask, pixels: Uint32Array, value: number, step = 1): void {
  const { height, width } = mask;
  const [rows, columns] = [Math.ceil(height / step), Math.ceil(width / step)];
  if (pixels.length !== rows * columns) throw new Error(`${pixels.length} pixels for a mask of ${width}x${height}`);
  let start = 0;
  let inside = false;
  for (const run of decodeCounts(mask.counts)) {
    const end = start + run;
    if (end > height * width) throw new Error("run lengths exceed the mask's size");
    for (let x = Math.floor(start / height); inside && x * height < end; x += 1) {
      if (x % step) continue;
      const last = Math.min(height, end - x * height);
      const first = Math.max(0, start - x * height);
      for (let y = Math.ceil(first / step); y * step < last; y += 1) pixels[y * columns + x / step] = value;
    }
    start = end;
    inside = !inside;
  }
}
