/** The alpha of exported objects, hard or feathered, as `sam2fast/demo/server/alpha.py` makes it. */

/**
 * The alpha of each pixel, 0 to 255, row by row.
 *
 * @param inside not 0 for the pixels of the objects
 * @param feather pixels to each side of the outline over which alpha rises; 0 for a hard outline
 */
export function alphaOf(inside: Uint32Array, size: Size, feather: number): Uint8Array {
  const alpha = new Uint8Array(inside.length);
  const reach = feather && Math.floor(feather) + 1;
  const [out, into] = [distances(inside, size, reach, false), distances(inside, size, reach, true)];
  for (let pixel = 0; pixel < alpha.length; pixel += 1) {
    const distance = inside[pixel] ? Math.sqrt(out[pixel]!) - 0.5 : 0.5 - Math.sqrt(into[pixel]!); // positive inside
    const share = Math.min(1, Math.max(0, 0.5 + distance / (2 * Math.max(feather, 0.5))));
    alpha[pixel] = Math.round(255 * share * share * (3 - 2 * share));
  }
  return alpha;
}

interface Size {
  readonly height: number;
  readonly width: number;
}

/** The squared distance of each pixel to the nearest one that is inside, or is not; at most that of `reach + 1`. */
function distances(inside: Uint32Array, { height, width }: Size, reach: number, isInside: boolean): Uint16Array {
  const far = reach + 1;
  const along = new Uint16Array(height * width).fill(far * far);
  for (let x = 0; x < width; x += 1) {
    for (const step of [1, -1]) {
      let distance = far;
      for (let row = 0; row < height; row += 1) {
        const pixel = (step > 0 ? row : height - 1 - row) * width + x;
        distance = Boolean(inside[pixel]) === isInside ? 0 : Math.min(far, distance + 1);
        along[pixel] = Math.min(along[pixel]!, distance * distance);
      }
    }
  }
  const nearest = along.slice();
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const pixel = y * width + x;
      for (let other = Math.max(0, x - reach); other <= Math.min(width - 1, x + reach); other += 1) {
        nearest[pixel] = Math.min(nearest[pixel]!, along[y * width + other]! + (other - x) ** 2);
      }
    }
  }
  return nearest;
}
