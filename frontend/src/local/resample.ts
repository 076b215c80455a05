import type { Size } from "./arrays";

const CHANNELS = 3;
const RADIUS = 2; // of the bicubic filter, in pixels of the coarser image

/** An image in another size: RGB of RGBA, row by row, by Pillow's bicubic filter, which averages where it shrinks. */
export function resample(pixels: Uint8ClampedArray, from: Size, side: number): Uint8Array {
  const narrow = new Uint8ClampedArray(from.height * side * CHANNELS);
  filter(pixels, narrow, {
    ...{ length: from.width, size: side, lines: from.height },
    ...{ step: 4, nextLine: 4 * from.width, newStep: CHANNELS, newLine: CHANNELS * side },
  });
  const square = new Uint8ClampedArray(side * side * CHANNELS);
  filter(narrow, square, {
    ...{ length: from.height, size: side, lines: side },
    ...{ step: CHANNELS * side, nextLine: CHANNELS, newStep: CHANNELS * side, newLine: CHANNELS },
  });
  return new Uint8Array(square.buffer);
}

/** One axis: its old and new length, how many lines there are, and the distances of values in memory. */
interface Axis {
  readonly length: number;
  readonly size: number;
  readonly lines: number;
  readonly step: number;
  readonly nextLine: number;
  readonly newStep: number;
  readonly newLine: number;
}

function filter(values: Uint8ClampedArray, result: Uint8ClampedArray, axis: Axis): void {
  const scale = axis.length / axis.size;
  const coarser = Math.max(scale, 1);
  for (let position = 0; position < axis.size; position += 1) {
    const centre = (position + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - RADIUS * coarser + 0.5));
    const last = Math.min(axis.length, Math.floor(centre + RADIUS * coarser + 0.5));
    const weights = Float64Array.from({ length: last - first }, (_, tap) =>
      bicubic((first + tap - centre + 0.5) / coarser),
    );
    const sum = weights.reduce((total, weight) => total + weight, 0);
    for (let line = 0; line < axis.lines; line += 1) {
      let at = line * axis.nextLine + first * axis.step;
      let [red, green, blue] = [0, 0, 0];
      for (const weight of weights) {
        red += weight * values[at]!;
        green += weight * values[at + 1]!;
        blue += weight * values[at + 2]!;
        at += axis.step;
      }
      const place = line * axis.newLine + position * axis.newStep;
      result[place] = red / sum;
      result[place + 1] = green / sum;
      result[place + 2] = blue / sum;
    }
  }
}

/** Keys's cubic with a = -0.5. */
function bicubic(distance: number): number {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < RADIUS) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
  return 0;
}
