import { paintMask, type Mask } from "../masks/rle";

export type Corner = readonly [x: number, y: number];
export type Ring = readonly Corner[];

/** A part of a mask. The outer ring is clockwise on the screen, holes are counterclockwise. */
export interface Polygon {
  readonly outer: Ring;
  readonly holes: Ring[];
}

/** The exact outlines of a mask, by the algorithm of `sam2fast/results/outlines.py`. */
export function polygonsOf(mask: Mask): Polygon[] {
  const { height, width } = mask;
  const pixels = new Uint32Array(height * width);
  paintMask(mask, pixels, 1);
  const has = (x: number, y: number) => x >= 0 && y >= 0 && x < width && y < height && pixels[y * width + x] === 1;

  const corners: Corner[] = [];
  const columns: number[][] = Array.from({ length: width + 1 }, () => []); // the corners of each, from the top
  for (let y = 0; y <= height; y += 1) {
    for (let x = 0; x <= width; x += 1) {
      const [nw, ne] = [has(x - 1, y - 1), has(x, y - 1)];
      const [sw, se] = [has(x - 1, y), has(x, y)];
      const first = corners.length;
      if ((nw !== ne) !== (sw !== se)) {
        corners.push([x, y]);
        columns[x]!.push(first);
      } else if (nw === se && nw !== ne) {
        // Two pixels touch. The first corner is that of the pixel on the left.
        corners.push([x, y], [x, y]);
        columns[x]!.push(...(nw ? [first, first + 1] : [first + 1, first]));
      }
    }
  }
  // In a row, corners bound horizontal edges in pairs, and in a column vertical ones.
  const verticals = columns.flatMap((column) =>
    column.filter((_, index) => index % 2 === 0).map((top, index) => [top, column[2 * index + 1]!] as const),
  );
  const following = new Array<number>(corners.length);
  for (const [top, bottom] of verticals) {
    following[top] = bottom;
    following[bottom] = top;
  }
  for (let left = 0; left < corners.length; left += 2) {
    const isRightwards = has(...corners[left]!); // the mask is on the right-hand side
    following[isRightwards ? left : left + 1] = isRightwards ? left + 1 : left;
  }

  const rings = simpleRings(following, corners).sort((a, b) => a[0]! - b[0]!);
  const numbers = new Array<number>(corners.length);
  rings.forEach((ring, number) => ring.forEach((corner) => (numbers[corner] = number)));
  // The ring at each side of a pixel, and 1; the next one on the left of a pixel bounds the same part.
  const sides = new Uint32Array(height * (width + 1));
  for (const [top, bottom] of verticals) {
    const [x, y] = corners[top]!;
    for (let row = y; row < corners[bottom]![1]; row += 1) sides[row * (width + 1) + x] = numbers[top]! + 1;
  }
  const parts: Polygon[] = [];
  const owners: Polygon[] = []; // of each ring
  for (const ring of rings) {
    const [x, y] = corners[ring[0]!]!;
    const shape = ring.map((corner) => corners[corner]!);
    if (has(x, y)) {
      owners.push({ outer: shape, holes: [] });
      parts.push(owners.at(-1)!);
    } else {
      let side = (y - 1) * (width + 1) + x;
      while (sides[side] === 0) side -= 1;
      owners.push(owners[sides[side]! - 1]!);
      owners.at(-1)!.holes.push(shape);
    }
  }
  return parts;
}

/** Rings of corners, each from its smallest; a ring that meets itself in a place is split there. */
function simpleRings(following: readonly number[], corners: readonly Corner[]): number[][] {
  const rings: number[][] = [];
  const add = (ring: number[]) => {
    const begin = ring.indexOf(ring.reduce((a, b) => Math.min(a, b)));
    rings.push([...ring.slice(begin), ...ring.slice(0, begin)]);
  };
  const visited = new Uint8Array(following.length);
  following.forEach((_, first) => {
    if (visited[first]) return;
    const path: number[] = [];
    const positions = new Map<string, number>();
    for (let corner = first; !visited[corner]; corner = following[corner]!) {
      visited[corner] = 1;
      const place = String(corners[corner]);
      const begin = positions.get(place);
      if (begin !== undefined) {
        const ring = path.splice(begin);
        ring.forEach((other) => positions.delete(String(corners[other])));
        add(ring);
      }
      positions.set(place, path.length);
      path.push(corner);
    }
    add(path);
  });
  return rings;
}

/** One ring of several, linked by lines of no width between near corners; as `sam2fast/results/polygons.py`. */
export function joined(rings: readonly Ring[]): Ring {
  return rings.reduce((path, ring) => {
    let [here, there] = [0, 0];
    for (let turn = 0; turn < 2; turn += 1) {
      here = nearest(path, ring[there]!);
      there = nearest(ring, path[here]!);
    }
    const detour = [...ring.slice(there), ...ring.slice(0, there), ring[there]!];
    return [...path.slice(0, here + 1), ...detour, ...path.slice(here)];
  });
}

function nearest(ring: Ring, [x, y]: Corner): number {
  const distances = ring.map((corner) => (corner[0] - x) ** 2 + (corner[1] - y) ** 2);
  return distances.indexOf(distances.reduce((a, b) => Math.min(a, b)));
}
