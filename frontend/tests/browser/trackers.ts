import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as runtime from "onnxruntime-web";
import { GRAPHS, type GraphName, type Manifest, type Strategy } from "../../src/local/manifest";
import { Model } from "../../src/local/model";
import { resample } from "../../src/local/resample";
import { encodeCounts, encodeLogits } from "../../src/local/runLengths";
import { runGraphs } from "../../src/local/runtime";
import { Tracker, type Frames } from "../../src/local/tracker";
import { decodeCounts } from "../../src/masks/rle";
import { PYTHON } from "./serve";

export interface Steps {
  readonly height: number;
  readonly width: number;
  readonly steps: { readonly frame: number; readonly masks: Record<string, string> }[];
}

/** The frames that the reference has written, resized as in the page. */
function readFrames(folder: string, height: number, width: number, side: number): Frames {
  const bytes = readFileSync(join(folder, "frames.rgb"));
  const length = 3 * height * width;
  const read = (frame: number) => {
    const pixels = new Uint8ClampedArray((length / 3) * 4);
    for (let at = 0; at < length; at += 1) pixels[Math.floor(at / 3) * 4 + (at % 3)] = bytes[frame * length + at]!;
    return Promise.resolve(resample(pixels, { height, width }, side));
  };
  return { count: bytes.length / length, read };
}

/** The frames as the reference has resized them. */
function readInputs(folder: string, side: number): Frames {
  const bytes = readFileSync(join(folder, "inputs.rgb"));
  const length = 3 * side * side;
  const read = (frame: number) => Promise.resolve(new Uint8Array(bytes.subarray(frame * length, (frame + 1) * length)));
  return { count: bytes.length / length, read };
}

/** Intersection over union of run lengths; 1 for two empty masks. */
export function overlap(first: string, second: string): number {
  const ends = [first, second].map((text) => {
    let end = 0;
    return decodeCounts(text).map((run) => (end += run));
  });
  const stops = [...new Set(ends.flat())].sort((a, b) => a - b);
  let [start, both, either] = [0, 0, 0];
  for (const stop of stops) {
    const [a, b] = ends.map((runs) => runs.findIndex((end) => end > start) % 2 === 1);
    if (a && b) both += stop - start;
    if (a || b) either += stop - start;
    start = stop;
  }
  return either === 0 ? 1 : both / either;
}

/** The steps of `track_reference.py`, in whose folder `out` the frames are. */
export function trackByPython(model: string, strategy: Strategy, out: string): Steps {
  execFileSync(PYTHON, [join(import.meta.dirname, "track_reference.py"), model, strategy, out]);
  return JSON.parse(readFileSync(join(out, "steps.json"), "utf8")) as Steps;
}

/** Does the same by the page's tracker; returns the overlaps of all masks with the expected ones. */
export async function trackByPage(
  model: string,
  strategy: Strategy,
  out: string,
  { height, width, steps }: Steps,
): Promise<number[]> {
  const manifest = JSON.parse(readFileSync(join(model, "model.json"), "utf8")) as Manifest;
  const sessions = {} as Record<GraphName, runtime.InferenceSession>;
  for (const name of GRAPHS)
    sessions[name] = await runtime.InferenceSession.create(readFileSync(join(model, `${name}.onnx`)));
  const side = manifest.image_size;
  const network = new Model(manifest, runGraphs(runtime, sessions));
  // Rounding of resized frames may decide which object gets a pixel.
  const frames = strategy === "sam2" ? readFrames(out, height, width, side) : readInputs(out, side);
  const tracker = new Tracker(network, frames, strategy);

  const found: { frame: number; masks: Map<number, Float32Array> }[] = [];
  const keep = (frame: number) => found.push({ frame, masks: tracker.masksOn(frame) });
  const track = async (start: number, isReverse: boolean) => {
    await tracker.commit();
    for (let frame = start; frame >= 0 && frame < frames.count; frame += isReverse ? -1 : 1) {
      const results = await tracker.track(frame, tracker.ids, isReverse);
      found.push({ frame, masks: new Map([...results].map(([id, { mask }]) => [id, mask])) });
    }
  };
  const at = (x: number, y: number) => [(x / width) * side, (y / height) * side];
  await tracker.setPoints(0, 1, { coords: at(125, 200), labels: [1] });
  keep(0);
  await tracker.setPoints(0, 2, { coords: [...at(240, 140), ...at(400, 290)], labels: [2, 3] });
  keep(0);
  await track(0, false);
  await tracker.setPoints(3, 1, { coords: [...at(150, 180), ...at(300, 60)], labels: [1, 0] });
  keep(3);
  for (const [id, from, to] of [
    [3, 0, 350],
    [4, 350, width],
    [5, 0, 330],
  ] as const) {
    const part = Float32Array.from({ length: height * width }, (_, pixel) => {
      const [row, column] = [Math.floor(pixel / width), pixel % width];
      return Math.hypot(row - 90, column - 350) < 40 && from <= column && column < to ? 1 : 0;
    });
    await tracker.setMask(3, id, part, { height, width });
    keep(3);
  }
  await track(3, false);
  await track(3, true);
  tracker.remove(2);
  tracker.clearPrompts(3, 1);
  await track(3, false);

  if (found.length !== steps.length) throw new Error(`${found.length} steps; expected ${steps.length}`);
  return steps.flatMap(({ masks }, step) =>
    Object.entries(masks).map(([id, counts]) => {
      const logits = found[step]!.masks.get(Number(id));
      const mask = logits
        ? encodeLogits(logits, network.size, { height, width }).counts
        : encodeCounts([height * width]);
      return overlap(mask, counts);
    }),
  );
}
