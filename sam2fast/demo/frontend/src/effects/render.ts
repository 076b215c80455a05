import type { Size } from "../player/geometry";
import type { BackgroundEffect, Look, ObjectEffect } from "./look";
import { drawBlurred, drawDarkened, drawDesaturated, drawPixelated, scratch, type Picture } from "./treatments";

/** An object on a frame: its mask as a canvas in its colour, transparent outside. */
export interface Layer {
  readonly mask: HTMLCanvasElement;
  readonly isHighlighted: boolean;
}

const OVERLAY = 0.5;
const OVERLAY_HIGHLIGHTED = 0.72;
const OUTLINE = 1 / 320; // of the picture's longer side

/** Draws a frame with its objects over whatever the context held. What is erased is transparent. */
export function renderFrame(
  context: CanvasRenderingContext2D,
  picture: Picture,
  size: Size,
  layers: readonly Layer[],
  look: Look,
): void {
  context.clearRect(0, 0, size.width, size.height);
  drawBackground(context, picture, size, look.background);
  if (layers.length > 0) drawObjects(context, picture, size, layers, look);
}

function drawBackground(
  context: CanvasRenderingContext2D,
  picture: Picture,
  size: Size,
  effect: BackgroundEffect,
): void {
  switch (effect) {
    case "original":
      return context.drawImage(picture, 0, 0, size.width, size.height);
    case "darken":
      return drawDarkened(context, picture, size);
    case "blur":
      return drawBlurred(context, picture, size);
    case "pixelate":
      return drawPixelated(context, picture, size);
    case "desaturate":
      return drawDesaturated(context, picture, size);
    case "white":
    case "green":
      context.fillStyle = effect === "white" ? "#fff" : "#00b140";
      return context.fillRect(0, 0, size.width, size.height);
    case "erase":
  }
}

function drawObjects(
  context: CanvasRenderingContext2D,
  picture: Picture,
  size: Size,
  layers: readonly Layer[],
  { objects, background }: Look,
): void {
  if (objects === "erase") return punch(context, size, layers);
  const isUnchanged = objects === "overlay" || objects === "outline" || objects === "original";
  if (!isUnchanged || background !== "original") {
    const cut = scratch("objects", size);
    drawTreated(cut, picture, size, objects);
    cut.globalCompositeOperation = "destination-in";
    cut.drawImage(unite(size, layers), 0, 0);
    context.drawImage(cut.canvas, 0, 0);
  }
  for (const { mask, isHighlighted } of layers) {
    if (objects === "overlay") {
      context.globalAlpha = isHighlighted ? OVERLAY_HIGHLIGHTED : OVERLAY;
      context.drawImage(mask, 0, 0, size.width, size.height);
      context.globalAlpha = 1;
    }
    if (objects === "overlay" || objects === "outline" || isHighlighted) outline(context, mask, size);
  }
}

function drawTreated(context: CanvasRenderingContext2D, picture: Picture, size: Size, effect: ObjectEffect): void {
  if (effect === "blur") drawBlurred(context, picture, size);
  else if (effect === "pixelate") drawPixelated(context, picture, size);
  else if (effect === "desaturate") drawDesaturated(context, picture, size);
  else context.drawImage(picture, 0, 0, size.width, size.height);
}

/** Everything inside any mask. */
function unite(size: Size, layers: readonly Layer[]): HTMLCanvasElement {
  const union = scratch("union", size);
  for (const { mask } of layers) union.drawImage(mask, 0, 0, size.width, size.height);
  return union.canvas;
}

function punch(context: CanvasRenderingContext2D, size: Size, layers: readonly Layer[]): void {
  context.save();
  context.globalCompositeOperation = "destination-out";
  context.drawImage(unite(size, layers), 0, 0);
  context.restore();
}

/** The mask shifted to eight sides without the mask itself: a line around it in its colour. */
function outline(context: CanvasRenderingContext2D, mask: HTMLCanvasElement, size: Size): void {
  const line = scratch("outline", size);
  const width = Math.max(1.5, OUTLINE * Math.max(size.width, size.height));
  for (let side = 0; side < 8; side += 1) {
    const angle = (side * Math.PI) / 4;
    line.drawImage(mask, width * Math.cos(angle), width * Math.sin(angle), size.width, size.height);
  }
  line.globalCompositeOperation = "destination-out";
  line.drawImage(mask, 0, 0, size.width, size.height);
  context.drawImage(line.canvas, 0, 0);
}
