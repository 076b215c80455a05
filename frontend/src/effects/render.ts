import type { Size } from "../scene/geometry";
import { BLURS, CELLS, CONTRASTS, FILLS, drawBackground } from "./backgrounds";
import { drawBlurred, drawPixelated, fill, scratch, type Context } from "./canvases";
import type { Choice, Look, ObjectEffect } from "./look";
import { drawArrow, drawBurst, drawEmoji, drawSpotlight, type Bounds } from "./shapes";
import { contrasted, drawToned, gradient, grey, noise, sepia } from "./tones";

/** An object on a frame. */
export interface Layer {
  readonly id: number;
  /** Its mask as a canvas in its colour, transparent outside. */
  readonly mask: HTMLCanvasElement;
  readonly colour: string;
  readonly bounds: Bounds;
  readonly isHighlighted: boolean;
}

const OPACITIES = [0.5, 0.75, 0.35, 0.95]; // of the overlay; the first four variants have outlines
const HIGHLIGHT = 0.45;
const OUTLINE = 1 / 320; // of the frame's longer side

/**
 * Draws a frame with its objects; erased parts are transparent. Page and files are drawn by this function.
 *
 * @param layers in the order of the objects: where masks overlap, the later object is seen
 * @param frame its number, for effects that move
 */
export function renderFrame(
  context: Context,
  image: CanvasImageSource,
  size: Size,
  layers: readonly Layer[],
  look: Look,
  frame: number,
): void {
  context.clearRect(0, 0, size.width, size.height);
  drawBackground(context, image, size, look, frame);
  if (layers.length > 0) drawObjects(context, image, size, layers, look, frame);
  for (const { mask, isHighlighted } of layers) {
    if (!isHighlighted) continue;
    context.globalAlpha = HIGHLIGHT;
    context.drawImage(mask, 0, 0, size.width, size.height);
    context.globalAlpha = 1;
    drawOutline(context, mask, size, 1);
  }
}

function drawObjects(
  context: Context,
  image: CanvasImageSource,
  size: Size,
  layers: readonly Layer[],
  { objects: { effect, variant }, background }: Look,
  frame: number,
): void {
  const union = unite(size, layers);
  if (effect === "burst") {
    const isThin = variant >= 2;
    for (const { bounds, colour } of layers)
      drawBurst(context, size, bounds, variant % 2 ? "#fff" : colour, isThin, frame);
  }
  if (effect === "erase") {
    context.globalCompositeOperation = "destination-out";
    context.drawImage(union, 0, 0);
    context.globalCompositeOperation = "source-over";
  }
  const isChanged = background.effect !== "original" || background.variant !== 0 || effect === "burst";
  const cut = scratch("objects", size);
  if (drawInside(cut, image, size, { effect, variant }, isChanged, frame)) {
    cut.globalCompositeOperation = "destination-in";
    cut.drawImage(union, 0, 0);
    context.drawImage(cut.canvas, 0, 0);
  }
  drawOnTop(context, size, layers, union, { effect, variant }, frame);
}

/** Draws what is seen inside of the objects; returns false if that is what is there already. */
function drawInside(
  context: Context,
  image: CanvasImageSource,
  size: Size,
  { effect, variant }: Choice<ObjectEffect>,
  isChanged: boolean,
  frame: number,
): boolean {
  const tone = effect === "original" ? [null, contrasted(1.6), contrasted(0.75), sepia][variant] : null;
  if (tone) drawToned(context, image, size, tone);
  else if (effect === "gradient") drawToned(context, image, size, gradient(variant));
  else if (effect === "noise") drawToned(context, image, size, noise(frame));
  else if (effect === "desaturate") drawToned(context, image, size, grey(CONTRASTS[variant]!));
  else if (effect === "pixelate") drawPixelated(context, image, size, CELLS[variant]!);
  else if (effect === "blur") drawBlurred(context, image, size, BLURS[variant]!);
  else if (effect === "emoji" && variant >= 3) drawBlurred(context, image, size, BLURS[2]!);
  else if (effect === "erase") {
    const style = FILLS[variant];
    if (!style) return false;
    fill(context, size, style);
  } else if (isChanged) context.drawImage(image, 0, 0, size.width, size.height);
  else return false;
  return true;
}

function drawOnTop(
  context: Context,
  size: Size,
  layers: readonly Layer[],
  union: HTMLCanvasElement,
  { effect, variant }: Choice<ObjectEffect>,
  frame: number,
): void {
  if (effect === "overlay") {
    // First hue and saturation alone: blue over a red object is blue, not purple.
    context.globalCompositeOperation = "color";
    context.drawImage(union, 0, 0);
    context.globalCompositeOperation = "source-over";
    context.globalAlpha = OPACITIES[variant % 4]!;
    context.drawImage(union, 0, 0);
    context.globalAlpha = 1;
  }
  if ((effect === "overlay" && variant < 4) || effect === "outline") {
    for (const { mask } of layers) drawOutline(context, mask, size, effect === "outline" && variant === 1 ? 2.5 : 1);
  }
  if (effect === "emoji")
    for (const { bounds } of layers) drawEmoji(context, bounds, variant % 3, variant < 3 ? 0.8 : 1.15);
  if (effect === "arrow") {
    const isLarge = variant >= 2;
    for (const { bounds, colour } of layers) drawArrow(context, bounds, variant % 2 ? "#fff" : colour, isLarge, frame);
  }
  const bounds = layers.map((layer) => layer.bounds);
  if (effect === "spotlight") drawSpotlight(context, size, bounds, variant % 3, variant >= 3);
}

/** All masks in their colours, later ones over earlier ones. */
function unite(size: Size, layers: readonly Layer[]): HTMLCanvasElement {
  const union = scratch("union", size);
  for (const { mask } of layers) union.drawImage(mask, 0, 0, size.width, size.height);
  return union.canvas;
}

/** Draws a line around the mask in its colour: the mask shifted in eight directions, without the mask itself. */
function drawOutline(context: Context, mask: HTMLCanvasElement, size: Size, thickness: number): void {
  const line = scratch("outline", size);
  const width = thickness * Math.max(1.5, OUTLINE * Math.max(size.width, size.height));
  for (let side = 0; side < 8; side += 1) {
    const angle = (side * Math.PI) / 4;
    line.drawImage(mask, width * Math.cos(angle), width * Math.sin(angle), size.width, size.height);
  }
  line.globalCompositeOperation = "destination-out";
  line.drawImage(mask, 0, 0, size.width, size.height);
  context.drawImage(line.canvas, 0, 0);
}
