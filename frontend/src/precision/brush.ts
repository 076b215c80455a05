import { create } from "zustand";
import { masksAt } from "../masks/masks";
import { maskArea, maskOf, paintMask } from "../masks/rle";
import type { Spot } from "../scene/geometry";
import { findObject, NO_PROMPT } from "../scene/scene";
import { clearHere, setAnswer } from "../state/editing";
import { getState, notify } from "../state/store";

/** The brush adds to the active object's mask, or removes from it. The result is the object's prompt on the frame. */
interface Brush {
  /** Its diameter as a share of the frame's width. */
  size: number;
  /** What is being painted. */
  stroke: Stroke | null;
  /** Where the pointer is. */
  cursor: Spot | null;
}

export interface Stroke {
  readonly isAdding: boolean;
  readonly spots: readonly Spot[];
}

export const MIN_SIZE = 0.005;
export const MAX_SIZE = 0.2;

export const useBrush = create<Brush>(() => ({ size: 0.04, stroke: null, cursor: null }));

export function resizeBrush(factor: number): void {
  useBrush.setState(({ size }) => ({ size: Math.min(MAX_SIZE, Math.max(MIN_SIZE, size * factor)) }));
}

export function beginStroke(spot: Spot, isAdding: boolean): void {
  useBrush.setState({ stroke: { isAdding, spots: [spot] } });
}

export function continueStroke(spot: Spot): void {
  useBrush.setState(({ stroke }) => ({ stroke: stroke && { ...stroke, spots: [...stroke.spots, spot] } }));
}

export function cancelStroke(): void {
  useBrush.setState({ stroke: null });
}

/** Makes the painted mask the object's prompt, as one undo step. */
export function endStroke(): void {
  const { stroke, size } = useBrush.getState();
  const { clip, active, frame, masks, scene } = getState();
  cancelStroke();
  if (!stroke || !clip) return;
  const before = masksAt(masks, frame).get(active);
  if (!before && findObject(scene, active)?.prompts[frame])
    return notify("info", "The mask of your click is not there yet. Paint when it is.");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [clip.width, clip.height];
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  drawStroke(context, stroke, size);
  const alpha = context.getImageData(0, 0, clip.width, clip.height).data;

  const pixels = new Uint32Array(clip.width * clip.height);
  if (before) paintMask(before, pixels, 1);
  const value = stroke.isAdding ? 1 : 0;
  for (let pixel = 0; pixel < pixels.length; pixel += 1) if (alpha[4 * pixel + 3]! > 127) pixels[pixel] = value;
  const mask = maskOf(pixels, clip);
  if (mask.counts === before?.counts) return;
  if (maskArea(mask) === 0) {
    // An empty mask is no prompt.
    if (findObject(scene, active)?.prompts[frame]) clearHere();
    else if (before)
      notify("info", "A tracked mask cannot be wiped completely. Leave a part of it, or correct it by clicks.");
    return;
  }
  setAnswer(active, frame, { ...NO_PROMPT, mask }, mask);
}

/** Draws a stroke in the context's size. */
export function drawStroke(context: CanvasRenderingContext2D, { spots }: Stroke, size: number, style = "#fff"): void {
  const { width, height } = context.canvas;
  context.strokeStyle = style;
  context.lineWidth = size * width;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  spots.forEach(({ x, y }, index) =>
    index ? context.lineTo(x * width, y * height) : context.moveTo(x * width, y * height),
  );
  // A single spot is a dot; a line without any length may not be drawn.
  context.lineTo(spots.at(-1)!.x * width + 0.01, spots.at(-1)!.y * height);
  context.stroke();
}
