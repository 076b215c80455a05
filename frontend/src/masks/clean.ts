import { decodeCounts, encodeCounts, type Mask } from "./rle";

/** A run of equal pixels within a column; `end` is that after its last row. */
interface Run {
  readonly x: number;
  readonly top: number;
  readonly end: number;
  readonly inside: boolean;
}

const cache = new WeakMap<Mask, { area: number; cleaned: Mask }>();

/**
 * Fills holes of fewer pixels than `area`, then removes such parts; the largest part stays. This is `clean_rle` of
 * `sam2fast/demo/server/clean_masks.py`.
 */
export function cleanMask<M extends Mask>(mask: M, area: number): M {
  if (!area) return mask;
  const known = cache.get(mask);
  if (known?.area === area) return known.cleaned as M;
  const filled = flip(runsOf(mask), false, mask, area); // runs that now touch in a column also do in the next one
  const cleaned = { ...mask, counts: countsOf(flip(filled, true, mask, area)) };
  cache.set(mask, { area, cleaned });
  return cleaned;
}

/** The runs with those of small regions inside, or outside, turned into the opposite. */
function flip(runs: readonly Run[], inside: boolean, { width }: Mask, area: number): Run[] {
  const chosen = runs.filter((run) => run.inside === inside);
  const roots = connect(chosen);
  const sizes = new Map<number, number>();
  const firsts = new Map<number, number>(); // pixels, row by row
  chosen.forEach(({ x, top, end }, index) => {
    const root = roots[index]!;
    sizes.set(root, (sizes.get(root) ?? 0) + end - top);
    firsts.set(root, Math.min(firsts.get(root) ?? Infinity, top * width + x));
  });
  let kept = -1;
  if (inside && [...sizes.values()].every((size) => size < area)) {
    const order = (a: number, b: number) => sizes.get(b)! - sizes.get(a)! || firsts.get(a)! - firsts.get(b)!;
    kept = [...sizes.keys()].sort(order)[0] ?? -1;
  }
  const small = new Set(chosen.filter((_, index) => roots[index] !== kept && sizes.get(roots[index]!)! < area));
  return runs.map((run) => (small.has(run) ? { ...run, inside: !inside } : run));
}

/** For each run a run of its region; regions are connected over corners, too. */
function connect(runs: readonly Run[]): number[] {
  const parents = runs.map((_, index) => index);
  const find = (index: number): number => {
    while (parents[index] !== index) index = parents[index] = parents[parents[index]!]!;
    return index;
  };
  let before = 0; // the first run of the column before that may touch
  runs.forEach(({ x, top, end }, index) => {
    while (runs[before]!.x < x - 1 || (runs[before]!.x === x - 1 && runs[before]!.end < top)) before += 1;
    for (let other = before; runs[other]!.x === x - 1 && runs[other]!.top <= end; other += 1)
      parents[find(other)] = find(index);
  });
  return parents.map((_, index) => find(index));
}

function runsOf({ height, counts }: Mask): Run[] {
  const runs: Run[] = [];
  let start = 0;
  decodeCounts(counts).forEach((length, index) => {
    for (const stop = start + length; start < stop;) {
      const x = Math.floor(start / height);
      const end = Math.min(height, stop - x * height);
      runs.push({ x, top: start - x * height, end, inside: index % 2 === 1 });
      start = x * height + end;
    }
  });
  return runs;
}

function countsOf(runs: readonly Run[]): string {
  const lengths = [0];
  runs.forEach(({ top, end, inside }) => {
    if (inside !== (lengths.length % 2 === 0)) lengths.push(0);
    lengths[lengths.length - 1]! += end - top;
  });
  return encodeCounts(lengths);
}
