import { fillHoles, resize, type Size } from "./arrays";
import type { Candidate, Model, Points, Prediction, Tensor } from "./model";
import type { Strategy } from "./manifest";
import { selectMemories, type Selection } from "./selection";
import { overlap, separate, UNKNOWN, type Motion } from "./together";

/** Tracks objects through a video; see `sam2fast/deploy/onnx/runtime/videos.py`, whose masks these are. */

const LOGIT_LIMIT = 32; // of masks that are prompts
const WEIGHTS_AT_ONCE = 2 ** 27; // of attention, 512 MiB, or those of one object
const FRAMES_KEPT = 4; // whose features are kept

/** One object's prediction on one frame, with its motion for the strategy `together`. */
interface Decided extends Prediction {
  /** Unknown on a prompt. */
  readonly motion: Motion;
}

/** One object's result on one frame, its holes filled. */
export interface Result extends Decided {
  /** Null until the prompt is committed. */
  readonly memory: Tensor | null;
}

type Results = Map<number, Result>;

/** Prompts and results of one object, by frame. */
class TrackedObject {
  readonly points = new Map<number, Points>();
  readonly masks = new Map<number, Float32Array>();
  /** Results with a memory, of prompted frames and of the others; a frame is in at most one of them. */
  readonly conditioning: Results = new Map();
  readonly tracked: Results = new Map();
  /** Results of prompts since the last propagation, which commits them to one or the other. */
  readonly newConditioning: Results = new Map();
  readonly newTracked: Results = new Map();
  /** Frames that a propagation visited, and whether it went backwards. */
  readonly reverse = new Map<number, boolean>();

  copy(): TrackedObject {
    const names = ["points", "masks", "conditioning", "tracked", "newConditioning", "newTracked", "reverse"] as const;
    const maps = names.map((name) => [name, new Map<number, unknown>(this[name])] as const);
    return Object.assign(new TrackedObject(), Object.fromEntries(maps));
  }

  /** Whether a prompt on the frame is a first one, rather than a correction that attends to memories. */
  isInitial(frame: number): boolean {
    return !this.reverse.has(frame) || this.conditioning.size === 0;
  }

  newResults(isConditioning: boolean): Results {
    return isConditioning ? this.newConditioning : this.newTracked;
  }

  /** The latest result on a frame: a new one of the given kind, else a kept one of either kind. */
  resultOn(frame: number, isConditioning: boolean): Result | undefined {
    return this.newResults(isConditioning).get(frame) ?? this.keptOn(frame);
  }

  keptOn(frame: number): Result | undefined {
    return this.conditioning.get(frame) ?? this.tracked.get(frame);
  }

  /** The motion after the frame before, if that was tracked in the same direction or prompted. */
  motionBefore(frame: number, isReverse: boolean): Motion {
    const before = isReverse ? frame + 1 : frame - 1;
    const tracked = this.reverse.get(before) === isReverse ? this.tracked.get(before) : undefined;
    return (this.conditioning.get(before) ?? tracked)?.motion ?? UNKNOWN;
  }

  /** The latest result on a frame, of any kind. */
  shownOn(frame: number): Result | undefined {
    return this.newConditioning.get(frame) ?? this.newTracked.get(frame) ?? this.keptOn(frame);
  }

  /** Removes the prompts on a frame; the result of a conditioning frame becomes an ordinary one. */
  removePrompts(frame: number): void {
    for (const prompts of [this.points, this.masks, this.newConditioning, this.newTracked]) prompts.delete(frame);
    const kept = this.conditioning.get(frame);
    if (!kept) return;
    this.conditioning.delete(frame);
    this.tracked.set(frame, kept);
    this.reverse.delete(frame);
  }

  /** Drops tracked results up to `distance` frames away; that of the frame itself stays. */
  forgetAround(frame: number, distance: number): void {
    for (const near of [...this.tracked.keys()]) {
      if (near !== frame && Math.abs(near - frame) <= distance) this.tracked.delete(near);
    }
  }

  /** Moves new results, with their memories, to the kept ones. */
  commit(tracked: Results, conditioning: Results): void {
    for (const [frame, result] of tracked) this.tracked.set(frame, result);
    for (const [frame, result] of conditioning) this.conditioning.set(frame, result);
    this.newTracked.clear();
    this.newConditioning.clear();
    for (const frame of this.conditioning.keys()) this.tracked.delete(frame);
  }
}

/** An object on a frame without a prompt, and what it attends to. */
interface Tracking {
  readonly id: number;
  readonly object: TrackedObject;
  readonly chosen: Selection;
}

/** Parts of a batch as large as the attention weights allow. */
function inParts(batch: readonly Tracking[], { dims }: Tensor): Tracking[][] {
  const positions = dims[2]! * dims[3]!;
  const size = Math.max(1, Math.floor(WEIGHTS_AT_ONCE / (positions ** 2 * batch[0]!.chosen.memories.length)));
  return Array.from({ length: Math.ceil(batch.length / size) }, (_, part) =>
    batch.slice(part * size, (part + 1) * size),
  );
}

const pairOf = (one: number, other: number) => `${Math.min(one, other)} ${Math.max(one, other)}`;

/** The video as the model sees it. */
export interface Frames {
  readonly count: number;
  /** A frame in the size of the model's input: RGB, row by row. */
  read(frame: number): Promise<Uint8Array>;
}

/** One video with its objects. Calls must not overlap; one that fails changes nothing. */
export class Tracker {
  private readonly objects = new Map<number, TrackedObject>();
  private readonly encoded = new Map<number, Tensor[]>();
  /** Pairs of objects that share pixels with `together`, parts and wholes: their prompts overlap. */
  private readonly exempt = new Set<string>();

  constructor(
    private readonly model: Model,
    private readonly frames: Frames,
    private readonly strategy: Strategy,
  ) {}

  get ids(): number[] {
    return [...this.objects.keys()];
  }

  /** Whether an object can be tracked from a prompt. */
  isPrompted(id: number): boolean {
    const object = this.objects.get(id);
    return object !== undefined && object.conditioning.size + object.newConditioning.size > 0;
  }

  /** Sets an object's points on a frame. @param points in pixels of the model's input, a box's corners first */
  async setPoints(frame: number, id: number, points: Points): Promise<void> {
    const object = this.objects.get(id) ?? new TrackedObject();
    const [prediction] = await this.model.predict(...(await this.inputsOf(frame, object, points)));
    const isInitial = object.isInitial(frame);
    object.points.set(frame, points);
    object.masks.delete(frame);
    this.store(frame, id, object, isInitial, prediction!);
  }

  /**
   * The masks that points would find, the best first; changes nothing.
   *
   * @param refine they refine the object's mask on the frame, otherwise they replace its prompts there
   */
  async candidates(frame: number, id: number, points: Points, refine: boolean): Promise<Candidate[]> {
    let object = this.objects.get(id) ?? new TrackedObject();
    if (!refine && (object.points.has(frame) || object.masks.has(frame))) {
      object = object.copy();
      object.removePrompts(frame);
    }
    const area = this.model.manifest.fill_hole_area;
    const found = await this.model.candidates(...(await this.inputsOf(frame, object, points)));
    return found.map(({ mask, iou }) => ({ mask: fillHoles(mask, this.model.size, area), iou }));
  }

  /** The model's inputs for points of an object on a frame. */
  private async inputsOf(frame: number, object: TrackedObject, points: Points) {
    const [isInitial, levels] = [object.isInitial(frame), await this.levelsOf(frame)];
    const features = isInitial
      ? this.model.withoutMemory(levels)
      : await this.attend(levels, [[object, this.select(object, frame, object.reverse.get(frame)!)]]);
    const before = object.resultOn(frame, this.isConditioning(isInitial));
    const previous = before?.mask.map((logit) => Math.min(LOGIT_LIMIT, Math.max(-LOGIT_LIMIT, logit))) ?? null;
    const multimask = this.model.usesMultimask(isInitial, points.labels.length);
    return [levels, features, points, previous, multimask] as const;
  }

  /** Sets an object's mask on a frame. @param given of 0 and 1, of any size */
  async setMask(frame: number, id: number, given: Float32Array, size: Size): Promise<void> {
    const side = this.model.manifest.image_size;
    const resized = resize(given, size, { height: side, width: side }, true);
    const mask = resized.map((value) => (value >= 0.5 ? 1 : 0));
    const object = this.objects.get(id) ?? new TrackedObject();
    const isInitial = object.isInitial(frame);
    const prediction = await this.model.takeMask(await this.levelsOf(frame), mask);
    object.masks.set(frame, mask);
    object.points.delete(frame);
    this.store(frame, id, object, isInitial, prediction);
  }

  private store(frame: number, id: number, object: TrackedObject, isInitial: boolean, found: Prediction): void {
    object.newResults(this.isConditioning(isInitial)).set(frame, this.finished({ ...found, motion: UNKNOWN }, null));
    this.objects.set(id, object);
  }

  private isConditioning(isInitial: boolean): boolean {
    return isInitial || this.model.manifest.add_all_frames_to_correct_as_cond;
  }

  clearPrompts(frame: number, id: number): void {
    this.objects.get(id)?.removePrompts(frame);
  }

  remove(id: number): void {
    for (const other of this.objects.keys()) this.exempt.delete(pairOf(id, other));
    this.objects.delete(id);
  }

  clear(): void {
    this.objects.clear();
    this.exempt.clear();
  }

  /** Low-resolution logits of all objects that have a result on a frame. */
  masksOn(frame: number): Map<number, Float32Array> {
    const isConditioning = [...this.objects.values()].some(({ newConditioning }) => newConditioning.has(frame));
    const found = new Map<number, Float32Array>();
    for (const [id, object] of this.objects) {
      const result = object.resultOn(frame, isConditioning);
      if (result) found.set(id, result.mask);
    }
    return found;
  }

  /** Encodes the memories of new prompts; every object needs a prompt. */
  async commit(): Promise<void> {
    const committed: [TrackedObject, Results, Results][] = [];
    for (const object of this.objects.values()) {
      committed.push([object, await this.remember(object.newTracked), await this.remember(object.newConditioning)]);
    }
    this.compareNew();
    const { clear_non_cond_mem_around_input: forgets } = this.model.manifest;
    for (const [object, tracked, conditioning] of committed) {
      const prompted = forgets ? [...tracked.keys(), ...conditioning.keys()] : [];
      for (const frame of prompted) object.forgetAround(frame, this.clearingDistance);
      object.commit(tracked, conditioning);
    }
  }

  /** Updates the exempt pairs by new prompts, as `sam2fast/tracking/together_rules.py` does. */
  private compareNew(): void {
    const isNew = ({ newConditioning, newTracked }: TrackedObject, frame: number) =>
      newConditioning.has(frame) || newTracked.has(frame);
    const isPrompted = ({ conditioning, points, masks }: TrackedObject, frame: number) =>
      conditioning.has(frame) || points.has(frame) || masks.has(frame);
    const all = [...this.objects.values()];
    const frames = new Set(all.flatMap((object) => [...object.newConditioning.keys(), ...object.newTracked.keys()]));
    for (const frame of [...frames].sort((a, b) => a - b)) {
      const shown = [...this.objects].flatMap(([id, object]) => {
        const mask = object.shownOn(frame)?.mask;
        return mask ? [{ id, object, mask }] : [];
      });
      for (const one of shown.filter(({ object }) => isNew(object, frame))) {
        for (const other of shown) {
          const isCompared = isPrompted(other.object, frame) || one.object.conditioning.size === 0;
          if (one === other || !isCompared) continue;
          if (overlap(one.mask, other.mask)) this.exempt.add(pairOf(one.id, other.id));
          else this.exempt.delete(pairOf(one.id, other.id));
        }
      }
    }
  }

  /** New results with memories of their masks after holes are filled. */
  private async remember(results: Results): Promise<Results> {
    const remembered: Results = new Map();
    for (const [frame, result] of results) {
      const features = (await this.levelsOf(frame)).at(-1)!;
      const [memory] = await this.model.encodeMemories(features, [result], true);
      remembered.set(frame, { ...result, memory: memory! });
    }
    return remembered;
  }

  /**
   * Tracks objects on one frame; returns their results. A pass commits, then calls this for each frame.
   * Objects that were removed meanwhile are left out.
   */
  async track(frame: number, ids: readonly number[], isReverse: boolean): Promise<Map<number, Result>> {
    const results = new Map<number, Result>();
    const batches = new Map<string, Tracking[]>();
    for (const id of ids) {
      const object = this.objects.get(id);
      if (!object) continue;
      const prompted = object.conditioning.get(frame);
      if (prompted) {
        results.set(id, prompted);
        continue;
      }
      const chosen = this.select(object, frame, isReverse);
      const key = `${chosen.memories.length} ${chosen.pointers.length}`;
      batches.set(key, [...(batches.get(key) ?? []), { id, object, chosen }]);
    }
    const levels = batches.size > 0 ? await this.levelsOf(frame) : [];
    const parts = [...batches.values()].flatMap((batch) => inParts(batch, levels.at(-1)!));
    let decided = new Map<number, Decided>();
    for (const part of parts) {
      const conditioned = await this.attend(
        levels,
        part.map(({ object, chosen }) => [object, chosen]),
      );
      const multimask = this.model.usesMultimask(false, 0);
      const predictions = await this.model.predict(levels, conditioned, null, null, multimask);
      part.forEach(({ id }, index) => decided.set(id, { ...predictions[index]!, motion: UNKNOWN }));
    }
    if (this.strategy === "together") decided = this.separated(frame, ids, isReverse, decided);
    for (const part of parts) {
      const predictions = part.map(({ id }) => decided.get(id)!);
      const encoded = await this.model.encodeMemories(levels.at(-1)!, predictions, false);
      part.forEach(({ id }, index) => results.set(id, this.finished(predictions[index]!, encoded[index]!)));
    }
    const found = new Map<number, Result>();
    for (const id of ids) {
      const [object, result] = [this.objects.get(id), results.get(id)];
      if (!object || !result) continue;
      if (!object.conditioning.has(frame)) object.tracked.set(frame, result);
      else if (this.model.manifest.clear_non_cond_mem_around_input) object.forgetAround(frame, this.clearingDistance);
      object.reverse.set(frame, isReverse);
      found.set(id, result);
    }
    return found;
  }

  /** The predictions after each pixel went to one object. */
  private separated(
    frame: number,
    ids: readonly number[],
    isReverse: boolean,
    predictions: ReadonlyMap<number, Decided>,
  ): Map<number, Decided> {
    const all = ids.flatMap((id) => {
      const [object, prediction] = [this.objects.get(id), predictions.get(id)];
      return object && prediction ? [{ id, object, prediction }] : [];
    });
    const found = separate(
      all.map(({ prediction }) => prediction.mask),
      all.map(({ object }) => object.motionBefore(frame, isReverse)),
      all.map(({ id }) => all.map((other) => id !== other.id && !this.exempt.has(pairOf(id, other.id)))),
      this.model.size,
    );
    return new Map(all.map(({ id, prediction }, index) => [id, { ...prediction, ...found[index]! }]));
  }

  /** A result with its holes filled; the memory of a tracked one was encoded before. */
  private finished(prediction: Decided, memory: Tensor | null): Result {
    const { fill_hole_area: area } = this.model.manifest;
    return { ...prediction, mask: fillHoles(prediction.mask, this.model.size, area), memory };
  }

  private select(object: TrackedObject, frame: number, isReverse: boolean): Selection {
    const { memory_rules: rules } = this.model.manifest;
    return selectMemories(frame, object.conditioning, object.tracked, this.frames.count, isReverse, rules);
  }

  private attend(levels: readonly Tensor[], pairs: readonly (readonly [TrackedObject, Selection])[]): Promise<Tensor> {
    const longest = Math.max(1, Math.min(this.frames.count, this.model.manifest.memory_rules.max_pointers) - 1);
    return this.model.attend(
      levels.at(-1)!,
      pairs.flatMap(([object, { memories }]) => memories.map(([frame]) => object.keptOn(frame)!.memory!)),
      pairs.flatMap(([, { memories }]) => memories.map(([, row]) => row)),
      pairs.flatMap(([object, { pointers }]) => pointers.map(([frame]) => object.keptOn(frame)!.pointer)),
      pairs.flatMap(([, { pointers }]) => pointers.map(([, distance]) => distance / longest)),
      pairs.length,
    );
  }

  private get clearingDistance(): number {
    const { stride, num_maskmem } = this.model.manifest.memory_rules;
    return stride * num_maskmem;
  }

  /** The frame's levels; those of the last few frames are kept. */
  async levelsOf(frame: number): Promise<Tensor[]> {
    const levels = this.encoded.get(frame) ?? (await this.model.encode(await this.frames.read(frame)));
    this.encoded.delete(frame);
    this.encoded.set(frame, levels);
    if (this.encoded.size > FRAMES_KEPT) this.encoded.delete(this.encoded.keys().next().value!);
    return levels;
  }
}
