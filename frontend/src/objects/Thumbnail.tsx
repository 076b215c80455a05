import { useEffect, useRef } from "react";
import { isPhoto } from "../api/video";
import { masksAt, type MaskEntry } from "../masks/masks";
import { maskBounds } from "../masks/rle";
import { readPhoto, readStill } from "../media/stills";
import { sizeOf } from "../media/shown";
import type { Size } from "../scene/geometry";
import { promptedFrames, type SceneObject } from "../scene/scene";
import { shownMask } from "../scene/shown";
import { useStore } from "../state/store";

const SIDE = 80; // pixels; twice the shown size
const MARGIN = 0.12; // around the object, as a share of its longer side

/** The object where it was first clicked; its colour before that. */
export function Thumbnail({ object }: { object: SceneObject }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const clip = useStore((state) => state.clip);
  const fps = useStore((state) => state.session?.fps);
  const frame = promptedFrames(object)[0];
  const entry = useStore((state) => (frame === undefined ? undefined : masksAt(state.masks, frame).get(object.id)));
  const mask = entry && shownMask(object, entry);
  const isSeen = mask !== undefined && mask.area > 0;

  useEffect(() => {
    if (!clip || !fps || frame === undefined || !isSeen) return;
    let isWanted = true;
    const asked = () => isWanted;
    if (isPhoto(clip)) void readPhoto(clip.url, asked, (image) => draw(canvas.current!, image, sizeOf(image), mask));
    else readStill(clip.url, frame, fps, asked, (video) => draw(canvas.current!, video, sizeOf(video), mask));
    return () => {
      isWanted = false;
    };
  }, [clip, fps, frame, mask, isSeen]);

  return (
    <span className="thumbnail" aria-hidden="true">
      {isSeen && <canvas ref={canvas} width={SIDE} height={SIDE} />}
    </span>
  );
}

/** Draws the square around the mask. */
function draw(canvas: HTMLCanvasElement, source: CanvasImageSource, size: Size, mask: MaskEntry): void {
  const { left, top, width, height } = maskBounds(mask);
  const scale = size.width / mask.width;
  const longest = Math.max(size.width, size.height);
  const side = Math.min(longest, Math.max(16, (1 + 2 * MARGIN) * Math.max(width, height) * scale));
  const x = (left + width / 2) * scale - side / 2;
  const y = (top + height / 2) * scale - side / 2;
  const context = canvas.getContext("2d")!;
  context.clearRect(0, 0, SIDE, SIDE);
  context.drawImage(source, x, y, side, side, 0, 0, SIDE, SIDE);
}
