import { CanvasSink, Input, MP4, UrlSource } from "mediabunny";
import { layersOf } from "../effects/layers";
import type { Look } from "../effects/look";
import { renderFrame } from "../effects/render";
import { matteCanvas, MaskBitmaps } from "../masks/bitmaps";
import type { Masks } from "../masks/masks";
import { timeOf } from "../media/frameTimes";
import { unload } from "../media/stills";
import type { Size } from "../scene/geometry";
import type { Scene } from "../scene/scene";
import type { Session } from "../state/store";

/** What is drawn: a copy of the page's state that later changes leave alone. */
export interface Work {
  readonly scene: Scene;
  readonly masks: Masks;
  readonly look: Look;
  /** Pixels of the masks over which their outlines are soft. */
  readonly feather: number;
  /** Of each object of the scene on each frame, white on black; null for outlines by distance. */
  readonly mattes: readonly (readonly Blob[])[] | null;
}

/** Draws frames as the page does, without the highlight of the object under the pointer. */
export class FrameRenderer {
  private readonly context: CanvasRenderingContext2D;
  private readonly bitmaps: MaskBitmaps;

  constructor(
    private readonly work: Work,
    private readonly size: Size,
  ) {
    this.bitmaps = new MaskBitmaps(work.feather);
    this.context = document.createElement("canvas").getContext("2d", { willReadFrequently: true })!;
    this.context.canvas.width = size.width;
    this.context.canvas.height = size.height;
  }

  get processedSize() {
    return { processedWidth: this.size.width, processedHeight: this.size.height };
  }

  /** The drawn frame; the canvas is reused for the next one. */
  async draw(image: CanvasImageSource, frame: number): Promise<CanvasRenderingContext2D> {
    const { scene, mattes, look } = this.work;
    const layers = layersOf({ ...this.work, hovered: null }, frame, this.bitmaps).map(async (layer) => {
      const matte = mattes?.[scene.objects.findIndex(({ id }) => id === layer.id)]?.[frame];
      return matte ? { ...layer, mask: await matteCanvas(matte, layer.colour) } : layer;
    });
    renderFrame(this.context, image, this.size, await Promise.all(layers), look, frame);
    return this.context;
  }
}

/** All frames of a video as JPEG images, one after the other, for browsers without WebCodecs. */
export async function* drawnFrames(
  renderer: FrameRenderer,
  url: string,
  { fps, numFrames }: Session,
): AsyncGenerator<Blob, void> {
  const times = Array.from({ length: numFrames }, (_, frame) => timeOf(frame, fps));
  let frame = 0;
  for await (const image of (await decoded(url, times)) ?? sought(url, times)) {
    const { canvas } = await renderer.draw(image, frame);
    frame += 1;
    yield await new Promise<Blob>((resolve, reject) => {
      canvas.toBlob(
        (blob) => (blob ? resolve(blob) : reject(new Error("a frame cannot be drawn"))),
        "image/jpeg",
        0.92,
      );
    });
  }
}

/** The images at increasing times, each frame decoded once; null if the browser cannot. */
async function decoded(url: string, times: readonly number[]): Promise<AsyncGenerator<CanvasImageSource> | null> {
  if (typeof VideoDecoder === "undefined") return null;
  const track = await new Input({ source: new UrlSource(url), formats: [MP4] }).getPrimaryVideoTrack();
  if (!track || !(await track.canDecode()) || (await track.getFirstTimestamp()) > times[0]!) return null;
  return (async function* () {
    const frames = new CanvasSink(track, { poolSize: 1 }).canvasesAtTimestamps(times);
    for await (const frame of frames) yield frame!.canvas;
  })();
}

/** The same by seeking, which decodes from the keyframe before each time. */
async function* sought(url: string, times: readonly number[]): AsyncGenerator<CanvasImageSource> {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  video.preload = "auto";
  video.src = url;
  try {
    await event(video, "loadeddata");
    for (const time of times) {
      const isThere = event(video, "seeked");
      video.currentTime = time;
      await isThere;
      yield video;
    }
  } finally {
    unload(video);
  }
}

function event(video: HTMLVideoElement, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    video.addEventListener(name, () => resolve(), { once: true });
    video.addEventListener("error", () => reject(new Error("the video cannot be loaded")), { once: true });
  });
}
