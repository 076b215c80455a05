import type { Size } from "./arrays";

/**
 * The strategy `together`: each pixel that several objects claim goes to the one whose motion explains it.
 * It makes the decisions of `sam2fast/deploy/onnx/runtime/together.py`; `together_rules.py` explains the constants.
 */

const SHARED = 10;
const NEAR = 1.1;
const LIMIT = 10;
const [WEIGHT, FARTHEST, LEAST_SQUARE] = [8, 32, 1e-4];
const VISIBLE = 4;
const HELD = 12;
const REACH = 16;
const TURNED = 9;
const APART = 0.75;
const FORGOTTEN = 3;
const [LEAST_GAIN, AREA_GAIN] = [0.15, 0.3];
const ROUNDS = 2;

/** The motion of an object after a frame. Positions and area are shares of the mask's. */
export interface Motion {
  /** Number of frames on which motion was measured; 0: it is unknown. */
  readonly frames: number;
  readonly x: number;
  readonly y: number;
  /** Velocity, for each frame. */
  readonly vx: number;
  readonly vy: number;
  readonly area: number;
  /** Frames in contact until now. */
  readonly contact: number;
  /** Frames without a visible mask until now. */
  readonly unseen: number;
}

export const UNKNOWN: Motion = { frames: 0, x: 0, y: 0, vx: 0, vy: 0, area: 0, contact: 0, unseen: 0 };

type Pairs = readonly (readonly boolean[])[];
type Includes = (pixel: number) => boolean;

/**
 * Gives each pixel to one object: returns the masks of all objects, and their motion after the frame.
 *
 * @param motions after the frame before
 * @param sharing true for pairs that compete for pixels
 */
export function separate(
  logits: readonly Float32Array[],
  motions: readonly Motion[],
  sharing: Pairs,
  size: Size,
): { readonly mask: Float32Array; readonly motion: Motion }[] {
  const places = logits.map((_, place) => place);
  const pairs = (test: (a: number, b: number) => boolean) => places.map((a) => places.map((b) => test(a, b)));
  const touching = pairs(
    (a, b) => sharing[a]![b]! && (overlap(logits[a]!, logits[b]!) || areNear(motions[a]!, motions[b]!, NEAR)),
  );
  const moved = withGroups(logits, motions, touching, size);
  const passing = passingScores(logits, moved, touching, size);
  const turned = exchanged(moved, passing);
  const gives = pairs((a, b) => passing[a]![b]! > -TURNED && !areNear(turned[a]!, turned[b]!, APART));
  const costs = turned.map((motion) => costOf(motion, size));
  const strength = (object: number, pixel: number) =>
    Math.fround(limited(logits[object]![pixel]!) - costs[object]![pixel]!);

  const masks = logits.map((mask) => mask.slice());
  for (let pixel = 0; pixel < size.height * size.width; pixel += 1) {
    const claimants = places.filter((object) => logits[object]![pixel]! > 0);
    if (claimants.length === 0) continue;
    let left = places.filter((a) => claimants.includes(a) || claimants.some((b) => gives[a]![b]));
    if (left.length < 2) continue;
    const largest = Math.max(...claimants.map((object) => logits[object]![pixel]!));
    for (let round = 0; round < ROUNDS && left.length > 0; round += 1) {
      const first = left.reduce((best, object) => (strength(object, pixel) > strength(best, pixel) ? object : best));
      if (!claimants.includes(first)) masks[first]![pixel] = largest;
      for (const object of left) {
        if (sharing[object]![first] && claimants.includes(object)) masks[object]![pixel] = -LIMIT;
      }
      left = left.filter((object) => object !== first && !sharing[object]![first]);
    }
  }
  return masks.map((mask, object) => {
    return { mask, motion: after(turned[object]!, mask, touching[object]!.includes(true), size) };
  });
}

/** Whether two masks share more than a tenth of the pixels of the smaller one. */
export function overlap(first: Float32Array, second: Float32Array): boolean {
  let [shared, one, other] = [0, 0, 0];
  for (let pixel = 0; pixel < first.length; pixel += 1) {
    const [isFirst, isSecond] = [first[pixel]! > 0, second[pixel]! > 0];
    if (isFirst) one += 1;
    if (isSecond) other += 1;
    if (isFirst && isSecond) shared += 1;
  }
  return SHARED * shared > Math.min(one, other);
}

/** Whether two objects are expected nearer than `radii` times the sum of their radii. */
function areNear(first: Motion, second: Motion, radii: number): boolean {
  if (first.frames === 0 || second.frames === 0) return false;
  const [dx, dy] = [first.x + first.vx - (second.x + second.vx), first.y + first.vy - (second.y + second.vy)];
  const radius = Math.sqrt(first.area / Math.PI) + Math.sqrt(second.area / Math.PI);
  return Math.sqrt(dx * dx + dy * dy) < radii * radius;
}

const limited = (logit: number) => Math.min(LIMIT, Math.max(-LIMIT, logit));

/** The cost of each pixel by motion, in logits; 0 if motion is unknown. */
function costOf({ frames, x, y, vx, vy, area }: Motion, { height, width }: Size): Float32Array {
  const weight = frames > 0 ? WEIGHT / 2 / Math.max(area / Math.PI, LEAST_SQUARE) : 0;
  const along = (length: number, at: number) =>
    Float32Array.from({ length }, (_, place) => weight * ((place + 0.5) / length - at) ** 2);
  const [ofX, ofY] = [along(width, x + vx), along(height, y + vy)];
  const costs = new Float32Array(height * width);
  for (let pixel = 0; pixel < costs.length; pixel += 1)
    costs[pixel] = Math.min(FARTHEST, ofX[pixel % width]! + ofY[Math.floor(pixel / width)]!);
  return costs;
}

/** Moves objects that touch together to their claims, as a moving camera does. */
function withGroups(
  logits: readonly Float32Array[],
  motions: readonly Motion[],
  touching: Pairs,
  size: Size,
): readonly Motion[] {
  if (!touching.some((row) => row.includes(true))) return motions;
  const costs = motions.map((motion) => costOf(motion, size));
  const near = touching.map((row, a) => [...row.keys()].filter((b) => (row[b] || a === b) && motions[b]!.frames > 0));
  return motions.map((motion, object) => {
    if (motion.frames === 0 || !touching[object]!.includes(true)) return motion;
    const group = [...new Set(near[object]!.flatMap((other) => near[other]!))];
    const measured = centreOf((pixel) => group.some((other) => logits[other]![pixel]! > 0), size);
    const expected = centreOf((pixel) => group.some((other) => costs[other]![pixel]! <= WEIGHT / 2), size);
    if (Math.min(measured.count, expected.count) < VISIBLE) return motion;
    return { ...motion, x: motion.x + (measured.x - expected.x), y: motion.y + (measured.y - expected.y) };
  });
}

/** How much pairs speak for passing each other, in logits for each pixel; NaN for pairs that do not touch. */
function passingScores(
  logits: readonly Float32Array[],
  motions: readonly Motion[],
  touching: Pairs,
  size: Size,
): number[][] {
  const costs = motions.map((motion, object) => (touching[object]!.includes(true) ? costOf(motion, size) : null));
  const sums = touching.map((row, object) =>
    row.map((touches, place) => {
      const cost = touches || object === place ? costs[place] : null;
      const weight = (pixel: number) => Math.max(0, 1 - cost![pixel]! / REACH);
      return cost ? logits[object]!.reduce((sum, logit, pixel) => sum + limited(logit) * weight(pixel), 0) : 0;
    }),
  );
  return motions.map((a, first) =>
    motions.map((b, second) => {
      if (!touching[first]![second] || a.frames === 0 || b.frames === 0) return NaN;
      const straight = sums[first]![first]! + sums[second]![second]!;
      const pixels = ((a.area + b.area) * size.height * size.width) / 2;
      return (straight - sums[first]![second]! - sums[second]![first]!) / Math.max(pixels, 1);
    }),
  );
}

/** Exchanges the motion of two objects that have turned back. */
function exchanged(motions: readonly Motion[], passing: readonly (readonly number[])[]): Motion[] {
  const others = passing.map((row, object) => {
    const turned = [...row.keys()].filter((other) => row[other]! <= -TURNED);
    return turned.reduce((best, other) => (best === object || row[other]! < row[best]! ? other : best), object);
  });
  return motions.map((motion, object) => {
    const other = others[object]!;
    if (others[other] !== object) return motion;
    const { x, y, vx, vy } = motions[other]!;
    return { ...motion, x, y, vx, vy };
  });
}

/** The motion after one more frame, with this mask. */
function after(motion: Motion, mask: Float32Array, inContact: boolean, size: Size): Motion {
  const measured = centreOf((pixel) => mask[pixel]! > 0, size);
  const share = measured.count / mask.length;
  const [expectedX, expectedY] = [motion.x + motion.vx, motion.y + motion.vy];
  const [isNew, isVisible] = [motion.frames === 0, measured.count >= VISIBLE];
  const isBrief = inContact && motion.contact < HELD;
  const isHeld = (isBrief || !isVisible) && !isNew;
  const unseen = isVisible ? 0 : motion.unseen + 1;
  const frames = unseen > FORGOTTEN && !isBrief ? 0 : motion.frames + (isVisible && !isHeld ? 1 : 0);
  const contact = inContact ? motion.contact + 1 : 0;
  if (isHeld) {
    const within = (place: number) => Math.min(1, Math.max(0, place));
    return { ...motion, frames, x: within(expectedX), y: within(expectedY), contact, unseen };
  }
  const { x, y } = measured;
  if (isNew) return { frames, x, y, vx: 0, vy: 0, area: share, contact, unseen };
  const gain = Math.max(1 / motion.frames, LEAST_GAIN);
  const velocity = { vx: motion.vx + gain * (x - expectedX), vy: motion.vy + gain * (y - expectedY) };
  return { frames, x, y, ...velocity, area: motion.area + AREA_GAIN * (share - motion.area), contact, unseen };
}

/** The centre of pixels as shares of the sides, 0 if there are none, and their number. */
function centreOf(includes: Includes, { height, width }: Size): { x: number; y: number; count: number } {
  let [x, y, count] = [0, 0, 0];
  for (let pixel = 0; pixel < height * width; pixel += 1) {
    if (!includes(pixel)) continue;
    x += (pixel % width) + 0.5;
    y += Math.floor(pixel / width) + 0.5;
    count += 1;
  }
  return { x: x / width / Math.max(count, 1), y: y / height / Math.max(count, 1), count };
}
