/** Operations on masks, equal to those of `sam2fast/deploy/onnx/runtime/arrays.py` up to rounding. */

const FILLED = 0.1; // logit of a filled hole

export interface Size {
  readonly height: number;
  readonly width: number;
}

/** For each new position along an axis: the first old one that it reads, and the weights from there on. */
interface Taps {
  readonly first: Int32Array;
  readonly weights: Float32Array[];
}

function taps(length: number, size: number, antialias: boolean): Taps {
  const scale = length / size;
  const support = antialias ? Math.max(scale, 1) : 1;
  const first = new Int32Array(size);
  const weights = Array.from({ length: size }, (_, position) => {
    let centre = scale * (position + 0.5) - 0.5;
    if (!antialias) centre = Math.min(Math.max(centre, 0), length - 1);
    const from = Math.max(0, Math.ceil(centre - support));
    const to = Math.min(length - 1, Math.floor(centre + support));
    first[position] = from;
    const found = Float32Array.from({ length: to - from + 1 }, (_, tap) =>
      Math.max(0, 1 - Math.abs(from + tap - centre) / support),
    );
    const sum = found.reduce((total, weight) => total + weight, 0);
    return found.map((weight) => weight / sum);
  });
  return { first, weights };
}

/** Bilinear interpolation, as torch's with `align_corners=False`; with `antialias` it averages where it shrinks. */
export function resize(values: Float32Array, from: Size, to: Size, antialias = false): Float32Array {
  const [rows, columns] = [taps(from.height, to.height, antialias), taps(from.width, to.width, antialias)];
  const narrow = new Float32Array(from.height * to.width);
  for (let x = 0; x < to.width; x += 1) {
    const [first, weights] = [columns.first[x]!, columns.weights[x]!];
    for (let y = 0; y < from.height; y += 1) {
      let sum = 0;
      for (let tap = 0; tap < weights.length; tap += 1) sum += weights[tap]! * values[y * from.width + first + tap]!;
      narrow[y * to.width + x] = sum;
    }
  }
  const resized = new Float32Array(to.height * to.width);
  for (let y = 0; y < to.height; y += 1) {
    const [first, weights] = [rows.first[y]!, rows.weights[y]!];
    for (let x = 0; x < to.width; x += 1) {
      let sum = 0;
      for (let tap = 0; tap < weights.length; tap += 1) sum += weights[tap]! * narrow[(first + tap) * to.width + x]!;
      resized[y * to.width + x] = sum;
    }
  }
  return resized;
}

/** Logits with background components, of 8 neighbours, of at most `most` pixels set to 0.1. */
export function fillHoles(logits: Float32Array, { height, width }: Size, most: number): Float32Array {
  if (most <= 0) return logits;
  const filled = logits.slice();
  const seen = new Uint8Array(logits.length);
  for (const [start, logit] of logits.entries()) {
    if (seen[start] || logit > 0) continue;
    const component = [start];
    seen[start] = 1;
    for (const pixel of component) {
      const [y, x] = [Math.floor(pixel / width), pixel % width]; // the component grows meanwhile
      for (let row = Math.max(0, y - 1); row <= Math.min(height - 1, y + 1); row += 1) {
        for (let column = Math.max(0, x - 1); column <= Math.min(width - 1, x + 1); column += 1) {
          const neighbour = row * width + column;
          if (seen[neighbour] || logits[neighbour]! > 0) continue;
          seen[neighbour] = 1;
          component.push(neighbour);
        }
      }
    }
    if (component.length <= most) for (const pixel of component) filled[pixel] = FILLED;
  }
  return filled;
}
