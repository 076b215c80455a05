import type { Size } from "../player/geometry";
import type { BackgroundEffect, Look, ObjectEffect } from "./look";

/** An object on a frame: its mask as a canvas in its colour, transparent outside. */
export interface Layer {
  readonly mask: HTMLCanvasElement;
  readonly isHighlighted: boolean;
}

const OVERLAY = 0.5;
const OVERLAY_HIGHLIGHTED = 0.72;
const BLUR_STEPS = 4; // each halves the size
const PIXELS_ACROSS = 48; // along the longer side
const OUTLINE = 1 / 320; // of the frame's longer side

/** Draws a frame with its objects; erased parts are transparent. `context.filter` is not used: Safari lacks it. */
export function renderFrame(
  context: CanvasRenderingContext2D,
  image: CanvasImageSource,
  size: Size,
  layers: readonly Layer[],
  look: Look,
): void {
  context.clearRect(0, 0, size.width, size.height);
  drawBackground(context, image, size, look.background);
  if (layers.length > 0) drawObjects(context, image, size, layers, look);
}

function drawBackground(
  context: CanvasRenderingContext2D,
  image: CanvasImageSource,
  size: Size,
  effect: BackgroundEffect,
): void {
  switch (effect) {
    case "original":
      return context.drawImage(image, 0, 0, size.width, size.height);
    case "darken":
      return drawDarkened(context, image, size);
    case "blur":
      return drawBlurred(context, image, size);
    case "pixelate":
      return drawPixelated(context, image, size);
    case "desaturate":
      return drawDesaturated(context, image, size);
    case "white":
    case "green":
      context.fillStyle = effect === "white" ? "#fff" : "#00b140";
      return context.fillRect(0, 0, size.width, size.height);
    case "erase":
  }
}

function drawObjects(
  context: CanvasRenderingContext2D,
  image: CanvasImageSource,
  size: Size,
  layers: readonly Layer[],
  { objects, background }: Look,
): void {
  if (objects === "erase") return punch(context, size, layers);
  const isUnchanged = objects === "overlay" || objects === "outline" || objects === "original";
  if (!isUnchanged || background !== "original") {
    const cut = scratch("objects", size);
    drawWithEffect(cut, image, size, objects);
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

function drawWithEffect(
  context: CanvasRenderingContext2D,
  image: CanvasImageSource,
  size: Size,
  effect: ObjectEffect,
): void {
  if (effect === "blur") drawBlurred(context, image, size);
  else if (effect === "pixelate") drawPixelated(context, image, size);
  else if (effect === "desaturate") drawDesaturated(context, image, size);
  else context.drawImage(image, 0, 0, size.width, size.height);
}

/** The union of all masks. */
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

/** Draws a line around the mask in its colour: the mask shifted in eight directions, without the mask itself. */
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

export function drawDesaturated(
  context: CanvasRenderingContext2D,
  image: CanvasImageSource,
  { width, height }: Size,
): void {
  context.drawImage(image, 0, 0, width, height);
  context.save();
  context.globalCompositeOperation = "saturation"; // grey has none
  context.fillStyle = "#808080";
  context.fillRect(0, 0, width, height);
  context.restore();
}

export function drawDarkened(
  context: CanvasRenderingContext2D,
  image: CanvasImageSource,
  { width, height }: Size,
): void {
  context.drawImage(image, 0, 0, width, height);
  context.fillStyle = "rgb(0 0 0 / 65%)";
  context.fillRect(0, 0, width, height);
}

export function drawPixelated(context: CanvasRenderingContext2D, image: CanvasImageSource, size: Size): void {
  const cell = Math.max(size.width, size.height) / PIXELS_ACROSS;
  const small = scratch("pixelate", { width: Math.ceil(size.width / cell), height: Math.ceil(size.height / cell) });
  small.drawImage(image, 0, 0, small.canvas.width, small.canvas.height);
  context.save();
  context.imageSmoothingEnabled = false;
  context.drawImage(small.canvas, 0, 0, size.width, size.height);
  context.restore();
}

/** Blurs by halving the size repeatedly and scaling back; averaging makes it close to a Gaussian blur. */
export function drawBlurred(context: CanvasRenderingContext2D, image: CanvasImageSource, size: Size): void {
  let from: CanvasImageSource = image;
  const steps: CanvasRenderingContext2D[] = [];
  for (let step = 1; step <= BLUR_STEPS; step += 1) {
    const half = { width: Math.ceil(size.width / 2 ** step), height: Math.ceil(size.height / 2 ** step) };
    const smaller = scratch(`blur ${step}`, half);
    smaller.drawImage(from, 0, 0, half.width, half.height);
    steps.push(smaller);
    from = smaller.canvas;
  }
  // Scale up in the same steps: one large step would show the pixels.
  for (const larger of steps.slice(0, -1).reverse()) {
    larger.drawImage(from, 0, 0, larger.canvas.width, larger.canvas.height);
    from = larger.canvas;
  }
  context.drawImage(from, 0, 0, size.width, size.height);
}

const scratches = new Map<string, CanvasRenderingContext2D>();

/** An empty canvas, reused by name. */
export function scratch(name: string, { width, height }: Size): CanvasRenderingContext2D {
  let context = scratches.get(name);
  if (!context) {
    context = document.createElement("canvas").getContext("2d")!;
    scratches.set(name, context);
  }
  context.canvas.width = width; // also clears the canvas
  context.canvas.height = height;
  return context;
}
