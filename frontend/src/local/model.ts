import { resize, type Size } from "./arrays";
import type { GraphName, Manifest } from "./manifest";

/** An array with its shape. */
export interface Tensor<Data = Float32Array> {
  readonly data: Data;
  readonly dims: readonly number[];
}

export type Input = Tensor<Float32Array | Int32Array | BigInt64Array>;

/** Runs a graph: its outputs in their order. */
export type RunGraph = (name: GraphName, inputs: Record<string, Input>) => Promise<Tensor[]>;

/** Clicks of one object: x and y in pixels of the model's input, and their labels. */
export interface Points {
  readonly coords: readonly number[];
  readonly labels: readonly number[];
}

/** The result for one object on one frame. */
export interface Prediction {
  /** Low-resolution logits. */
  readonly mask: Float32Array;
  readonly pointer: Float32Array;
  /** Predicted. */
  readonly iou: number;
  /** Logit of its presence. */
  readonly score: number;
}

/** A mask that a prediction chooses from: low-resolution logits, and their predicted IoU. */
export type Candidate = Pick<Prediction, "mask" | "iou">;

/** What the decoder finds for one object: four masks, their IoUs and pointers, and the logit of its presence. */
interface Decoded {
  readonly masks: Float32Array[];
  readonly ious: Float32Array;
  readonly pointers: Float32Array[];
  readonly score: number;
}

const NO_OBJECT = -1024; // logit of an object that is not in the frame
const PADDING = -1; // label of a point that is none
const PRESENT = 10; // score of an object whose mask is given

/** The graphs of an exported model as functions; see `sam2fast/deploy/onnx/runtime/graphs.py`. */
export class Model {
  /** Of low-resolution masks. */
  readonly size: Size;

  constructor(
    readonly manifest: Manifest,
    private readonly run: RunGraph,
  ) {
    const side = manifest.image_size / 4;
    this.size = { height: side, width: side };
  }

  /** The levels of one image, finest first. @param pixels RGB, row by row */
  async encode(pixels: Uint8Array): Promise<Tensor[]> {
    const { image_size: side, mean, std } = this.manifest;
    const data = new Float32Array(3 * side * side);
    for (let channel = 0; channel < 3; channel += 1) {
      const [offset, scale] = [mean[channel]!, std[channel]!];
      for (let pixel = 0; pixel < side * side; pixel += 1) {
        data[channel * side * side + pixel] = (pixels[3 * pixel + channel]! / 255 - offset) / scale;
      }
    }
    return this.run("encoder", { pixels: { data, dims: [1, 3, side, side] } });
  }

  /** The frame's features for objects without memories. */
  withoutMemory(levels: readonly Tensor[]): Tensor {
    const { data, dims } = levels.at(-1)!;
    const area = dims[2]! * dims[3]!;
    return { data: data.map((value, place) => value + this.manifest.no_mem_embed[Math.floor(place / area)]!), dims };
  }

  /** The frame's features conditioned on memories of `objects` objects, equally many for each. */
  async attend(
    features: Tensor,
    memories: readonly Tensor[],
    rows: readonly number[],
    pointers: readonly Float32Array[],
    offsets: readonly number[],
    objects: number,
  ): Promise<Tensor> {
    const [kept, pointed] = [memories.length / objects, pointers.length / objects];
    const width = features.dims[1]!;
    const [conditioned] = await this.run("memory_attention", {
      features,
      memories: { data: joined(memories.map(({ data }) => data)), dims: [objects, kept, ...memories[0]!.dims] },
      time_rows: { data: BigInt64Array.from(rows, BigInt), dims: [objects, kept] },
      pointers: { data: joined(pointers), dims: [objects, pointed, width] },
      offsets: { data: Float32Array.from(offsets), dims: [objects, pointed] },
    });
    return conditioned!;
  }

  /** The memories of predictions on a frame. */
  async encodeMemories(features: Tensor, predictions: readonly Prediction[], fromPrompt: boolean): Promise<Tensor[]> {
    const { binarize_mask_from_pts_for_mem_enc: binarizes } = this.manifest;
    const count = predictions.length;
    const [memories] = await this.run("memory_encoder", {
      features,
      masks: { data: joined(predictions.map(({ mask }) => mask)), dims: [count, 1, this.size.height, this.size.width] },
      scores: { data: Float32Array.from(predictions, ({ score }) => score), dims: [count, 1] },
      from_prompt: { data: new Float32Array(count).fill(fromPrompt && binarizes ? 1 : 0), dims: [count] },
    });
    return split(memories!.data, count).map((data) => ({ data: data.slice(), dims: memories!.dims.slice(1) }));
  }

  /** Whether so many points, on a frame with a first prompt or on another, get the best of three masks. */
  usesMultimask(isInitial: boolean, clicks: number): boolean {
    const manifest = this.manifest;
    const asked = manifest.multimask_output_in_sam && (isInitial || manifest.multimask_output_for_tracking);
    return asked && manifest.multimask_min_pt_num <= clicks && clicks <= manifest.multimask_max_pt_num;
  }

  /**
   * The chosen masks of all objects of `features` on a frame.
   *
   * @param points of the only object; null for objects without prompts
   * @param previous low-resolution logits of the only object's earlier mask
   * @param multimask the best of three masks rather than the single one
   */
  async predict(
    levels: readonly Tensor[],
    features: Tensor,
    points: Points | null,
    previous: Float32Array | null,
    multimask: boolean,
  ): Promise<Prediction[]> {
    const { use_multimask_token_for_obj_ptr: usesToken, no_obj_ptr } = this.manifest;
    return (await this.decode(levels, features, points, previous)).map(({ masks, ious, pointers, score }) => {
      const choice = multimask ? bestOfThree(ious) : this.singleMask(masks[0]!, ious);
      const pointer = pointers[multimask && usesToken ? choice : 0]!;
      return {
        mask: score > 0 ? masks[choice]!.slice() : this.noObject(),
        pointer: score > 0 ? pointer.slice() : Float32Array.from(no_obj_ptr),
        iou: ious[choice]!,
        score,
      };
    });
  }

  /** The masks that `predict` chooses from, the best first: three, or the single one. */
  async candidates(...[levels, features, points, previous, multimask]: Parameters<Model["predict"]>) {
    const [{ masks, ious, score }] = (await this.decode(levels, features, points, previous)) as [Decoded];
    const places = multimask ? [1, 2, 3] : [this.singleMask(masks[0]!, ious)];
    const found = places.map((place): Candidate => {
      return { mask: score > 0 ? masks[place]!.slice() : this.noObject(), iou: ious[place]! };
    });
    return found.sort((a, b) => b.iou - a.iou);
  }

  private noObject(): Float32Array {
    return new Float32Array(this.size.height * this.size.width).fill(NO_OBJECT);
  }

  private async decode(
    levels: readonly Tensor[],
    features: Tensor,
    points: Points | null,
    previous: Float32Array | null,
  ): Promise<Decoded[]> {
    const count = features.dims[0]!;
    const given = points ?? { coords: [0, 0], labels: [PADDING] };
    // The decoder was trained with a padding point after the points.
    const coords = Array.from({ length: count }, () => [...given.coords, 0, 0]).flat();
    const labels = Array.from({ length: count }, () => [...given.labels, PADDING]).flat();
    const area = this.size.height * this.size.width;
    const finer = levels.slice(0, -1).map((level, index) => [`high${index}`, level] as const);
    const [masks, ious, pointers, scores] = await this.run("decoder", {
      ...Object.fromEntries(finer),
      features,
      coords: { data: Float32Array.from(coords), dims: [count, labels.length / count, 2] },
      labels: { data: Int32Array.from(labels), dims: [count, labels.length / count] },
      mask: { data: previous ?? new Float32Array(count * area), dims: [count, 1, this.size.height, this.size.width] },
      has_mask: { data: new Float32Array(count).fill(previous ? 1 : 0), dims: [count] },
    });
    return Array.from({ length: count }, (_, object) => {
      const of = (tensor: Tensor) => split(split(tensor.data, count)[object]!, tensor.dims[1]!);
      const [quality, score] = [split(ious!.data, count)[object]!, scores!.data[object]!];
      return { masks: of(masks!), ious: quality, pointers: of(pointers!), score };
    });
  }

  /** The first mask, or the best of the others if it is not stable. */
  private singleMask(mask: Float32Array, ious: Float32Array): number {
    if (!this.manifest.stability) return 0;
    const [delta, threshold] = this.manifest.stability;
    let [inner, outer] = [0, 0];
    for (const logit of mask) {
      if (logit > delta) inner += 1;
      if (logit > -delta) outer += 1;
    }
    return outer === 0 || Math.fround(inner / outer) >= Math.fround(threshold) ? 0 : bestOfThree(ious);
  }

  /** A given mask of 0 and 1, of the input's size, as if it had been predicted. */
  async takeMask(levels: readonly Tensor[], mask: Float32Array): Promise<Prediction> {
    const { image_size: side, mask_downsample: kernel, no_obj_ptr } = this.manifest;
    const { height, width } = this.size;
    const small = new Float32Array(height * width);
    for (let pixel = 0; pixel < small.length; pixel += 1) {
      let sum = kernel[16]!;
      for (let tap = 0; tap < 16; tap += 1) {
        const [y, x] = [4 * Math.floor(pixel / width) + Math.floor(tap / 4), 4 * (pixel % width) + (tap % 4)];
        sum += kernel[tap]! * mask[y * side + x]!;
      }
      small[pixel] = sum;
    }
    const [prediction] = await this.predict(levels, levels.at(-1)!, null, small, false);
    const isPresent = mask.some((value) => value > 0);
    const logits = mask.map((value) => 20 * value - 10);
    return {
      mask: resize(logits, { height: side, width: side }, this.size, true),
      pointer: isPresent ? prediction!.pointer : Float32Array.from(no_obj_ptr),
      iou: 1,
      score: isPresent ? PRESENT : -PRESENT,
    };
  }
}

/** Arrays one after the other. */
function joined(arrays: readonly Float32Array[]): Float32Array {
  const result = new Float32Array(arrays.reduce((length, array) => length + array.length, 0));
  let start = 0;
  for (const array of arrays) {
    result.set(array, start);
    start += array.length;
  }
  return result;
}

/** Views of equal parts. */
function split(data: Float32Array, count: number): Float32Array[] {
  const length = data.length / count;
  return Array.from({ length: count }, (_, part) => data.subarray(part * length, (part + 1) * length));
}

/** The index of the best of the last three of four predicted IoUs. */
function bestOfThree(ious: Float32Array): number {
  let best = 1;
  for (let index = 2; index < ious.length; index += 1) if (ious[index]! > ious[best]!) best = index;
  return best;
}
