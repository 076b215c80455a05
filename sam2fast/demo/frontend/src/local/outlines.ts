import { paintMask, type Mask } from "../masks/rle";

type Corner = readonly [x: number, y: number];

// Steps along an outline: right, down, left, up. The mask is on the right-hand side.
const STEPS: readonly Corner[] = [
  [1, 0],
  [0, 1],
  [-1, 0],
  [0, -1],
];

/**
 * The outer outline of each part of a mask, clockwise, as its corners between pixels. Pixels that only touch at a corner
 * belong to different parts. As in `sam2fast/demo/server/yolo.py`.
 */
export function outlines(mask: Mask): Corner[][] {
  const width = mask.width + 1; // of the corners
  const edges = edgesOf(mask);
  const found: Corner[][] = [];
  for (const start of [...edges.keys()].sort((a, b) => a - b)) {
    while (edges.has(start)) {
      const outline: Corner[] = [];
      let corner = start;
      let step = edges.get(start)!.includes(0) ? 0 : edges.get(start)![0]!;
      do {
        const choices = edges.get(corner)!;
        // Where two parts touch, a right turn stays at the same one.
        const next = [(step + 1) % 4, step, (step + 3) % 4].find((turn) => choices.includes(turn))!;
        if (outline.length === 0 || next !== step) outline.push([corner % width, Math.floor(corner / width)]);
        choices.splice(choices.indexOf(next), 1);
        if (choices.length === 0) edges.delete(corner);
        step = next;
        corner += STEPS[step]![0] + STEPS[step]![1] * width;
      } while (corner !== start);
      if (isClockwise(outline)) found.push(outline);
    }
  }
  return found;
}

/** The sides of pixels between mask and background as directed steps, by the number of the corner they begin at. */
function edgesOf(mask: Mask): Map<number, number[]> {
  const { height, width } = mask;
  const pixels = new Uint32Array(height * width);
  paintMask(mask, pixels, 1);
  const has = (x: number, y: number) => x >= 0 && y >= 0 && x < width && y < height && pixels[y * width + x] === 1;
  const edges = new Map<number, number[]>();
  const add = (x: number, y: number, step: number) => {
    const corner = y * (width + 1) + x;
    edges.set(corner, [...(edges.get(corner) ?? []), step]);
  };
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      if (!has(x, y)) continue;
      if (!has(x, y - 1)) add(x, y, 0);
      if (!has(x + 1, y)) add(x + 1, y, 1);
      if (!has(x, y + 1)) add(x + 1, y + 1, 2);
      if (!has(x - 1, y)) add(x, y + 1, 3);
    }
  }
  return edges;
}

/** Whether the outline goes around a part rather than around a hole in it; y points down. */
function isClockwise(outline: readonly Corner[]): boolean {
  const area = outline.reduce((sum, [x0, y0], index) => {
    const [x1, y1] = outline[(index + 1) % outline.length]!;
    return sum + x0 * y1 - x1 * y0;
  }, 0);
  return area > 0;
}
