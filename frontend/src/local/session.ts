import type { Clicks, Proposal } from "../api/rest";
import type { TrackedMask } from "../masks/masks";
import { paintMask, type Mask } from "../masks/rle";
import type { Size } from "./arrays";
import { Refusal } from "./calls";
import type { PageMasks } from "./pageMasks";
import type { Strategy } from "./manifest";
import type { Model } from "./model";
import type { LocalPhoto } from "./photo";
import { encodeLogits } from "./runLengths";
import { resizeMasks } from "./sources";
import { Tracker } from "./tracker";
import type { LocalVideo } from "./video";

export interface TrackRequest {
  readonly start_frame_index: number;
  readonly direction: "both" | "forward" | "backward";
  readonly end_frame_index: number | null;
  readonly object_ids: readonly number[];
}

/** The masks of a frame by object. */
export interface FrameAnswer {
  readonly frame: number;
  readonly masks: ReadonlyMap<number, TrackedMask>;
}

/** Runs one computation at a time, in the order of the requests; tracking is one for each frame. */
export class Queue {
  private last: Promise<unknown> = Promise.resolve();

  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.last.then(work);
    this.last = result.catch(() => undefined);
    return result;
  }
}

/** The work on one video. */
export class LocalSession {
  readonly id = crypto.randomUUID();
  private tracker: Tracker | null = null;
  private previews = 0;
  private running: { cancelled: boolean } | null = null; // the latest track

  constructor(
    readonly path: string,
    readonly video: LocalVideo | LocalPhoto,
    private readonly model: Promise<Model>,
    private readonly queue: Queue,
    /** Null for the model's. */
    private readonly strategy: Strategy | null,
  ) {}

  /** Encodes the first frame. */
  async prepare(): Promise<void> {
    const tracker = await this.open();
    await this.queue.run(() => tracker.levelsOf(0));
  }

  /** Sets an object's points on a frame. @param points shares of the frame's width and height */
  setPoints(frame: number, id: number, points: readonly number[][], labels: readonly number[]): Promise<FrameAnswer> {
    return this.compute(frame, async (tracker, side) => {
      await tracker.setPoints(frame, id, { coords: points.flat().map((share) => share * side), labels });
    });
  }

  /**
   * The masks that clicks would find, the best first. Previews of a refinement follow the pointer: none are found if
   * a newer one has replaced this one, or after `signal`.
   */
  async preview({ frameIndex, objectId, points, labels, refine }: Clicks, signal: AbortSignal): Promise<Proposal[]> {
    const ticket = refine ? (this.previews += 1) : null;
    const [tracker, model] = [await this.open(), await this.model];
    return this.queue.run(async () => {
      if (signal.aborted || (ticket !== null && ticket !== this.previews)) return [];
      const coords = points.flat().map((share) => share * model.manifest.image_size);
      const found = await tracker.candidates(frameIndex, objectId, { coords, labels }, refine);
      return found.map(({ mask, iou }) => ({ ...encodeLogits(mask, model.size, this.video), iou }));
    });
  }

  setMask(frame: number, id: number, mask: Mask): Promise<FrameAnswer> {
    const pixels = new Uint32Array(mask.height * mask.width);
    paintMask(mask, pixels, 1);
    return this.compute(frame, (tracker) => tracker.setMask(frame, id, Float32Array.from(pixels), mask));
  }

  /** The page's masks at another size. */
  async resizeMasks(page: PageMasks, size: Size): Promise<PageMasks> {
    const [tracker, model] = [await this.open(), await this.model];
    return resizeMasks(page, (frame) => tracker.masksOn(frame), model.size, size);
  }

  clearPoints(frame: number, id: number): Promise<FrameAnswer> {
    return this.compute(frame, (tracker) => tracker.clearPrompts(frame, id));
  }

  removeObject(id: number): Promise<FrameAnswer> {
    return this.compute(0, (tracker) => tracker.remove(id));
  }

  clear(): Promise<FrameAnswer> {
    this.cancel();
    return this.compute(0, (tracker) => tracker.clear());
  }

  /** Cancels the running track after its frame. */
  cancel(): void {
    if (this.running) this.running.cancelled = true;
  }

  async close(): Promise<void> {
    this.cancel();
    await this.queue.run(() => this.video.close());
  }

  /** Checks the request and starts it; the frames follow one after the other. Another track is cancelled. */
  async startTrack(request: TrackRequest): Promise<AsyncGenerator<FrameAnswer, void>> {
    this.cancel();
    const track = { cancelled: false };
    this.running = track;
    const tracker = await this.open();
    const missing = request.object_ids.find((id) => !tracker.isPrompted(id));
    if (missing !== undefined) {
      throw new Refusal("NOTHING_TO_TRACK", `object ${missing} has no points to track it from; give some`, 409);
    }
    return this.frames(tracker, request, track);
  }

  private async *frames(
    tracker: Tracker,
    { start_frame_index: start, end_frame_index: end, direction, object_ids: ids }: TrackRequest,
    track: { cancelled: boolean },
  ): AsyncGenerator<FrameAnswer, void> {
    for (const isReverse of [false, true]) {
      if (direction === (isReverse ? "forward" : "backward") || (isReverse && start === 0)) continue;
      await this.queue.run(() => tracker.commit());
      const [step, last] = isReverse ? [-1, end ?? 0] : [1, end ?? this.video.count - 1];
      for (let frame = start; step * frame <= step * last; frame += step) {
        const results = await this.queue.run(async () =>
          track.cancelled ? null : tracker.track(frame, ids, isReverse),
        );
        if (!results) return;
        const { size } = await this.model;
        const masks = [...results].map(([id, { mask, iou, score }]) => {
          return [id, { ...encodeLogits(mask, size, this.video), scores: { iou, presence: score } }] as const;
        });
        yield { frame, masks: new Map(masks) };
      }
    }
  }

  /** Changes prompts and returns the masks of all objects on a frame. */
  private async compute(
    frame: number,
    change: (tracker: Tracker, side: number) => Promise<void> | void,
  ): Promise<FrameAnswer> {
    const tracker = await this.open();
    const model = await this.model;
    return this.queue.run(async () => {
      await change(tracker, model.manifest.image_size);
      return this.answer(frame, tracker.masksOn(frame), model);
    });
  }

  /** The tracker, when the model is loaded. */
  private async open(): Promise<Tracker> {
    const model = await this.model;
    this.tracker ??= new Tracker(model, this.video, this.strategy ?? model.manifest.strategy);
    return this.tracker;
  }

  private answer(frame: number, logits: ReadonlyMap<number, Float32Array>, model: Model): FrameAnswer {
    const masks = [...logits].map(([id, found]) => [id, encodeLogits(found, model.size, this.video)] as const);
    return { frame, masks: new Map(masks) };
  }
}
