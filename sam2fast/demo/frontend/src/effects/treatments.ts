import type { Size } from "../player/geometry";

/** Ways to draw a picture. None uses `context.filter`, which Safari lacks. */
export type Picture = CanvasImageSource;

const BLUR_STEPS = 4; // each halves the picture
const PIXELS_ACROSS = 48; // of the longer side

export function drawDesaturated(context: CanvasRenderingContext2D, picture: Picture, { width, height }: Size): void {
  context.drawImage(picture, 0, 0, width, height);
  context.save();
  context.globalCompositeOperation = "saturation"; // of a grey: none
  context.fillStyle = "#808080";
  context.fillRect(0, 0, width, height);
  context.restore();
}

export function drawDarkened(context: CanvasRenderingContext2D, picture: Picture, { width, height }: Size): void {
  context.drawImage(picture, 0, 0, width, height);
  context.fillStyle = "rgb(0 0 0 / 65%)";
  context.fillRect(0, 0, width, height);
}

export function drawPixelated(context: CanvasRenderingContext2D, picture: Picture, size: Size): void {
  const cell = Math.max(size.width, size.height) / PIXELS_ACROSS;
  const small = scratch("pixelate", { width: Math.ceil(size.width / cell), height: Math.ceil(size.height / cell) });
  small.drawImage(picture, 0, 0, small.canvas.width, small.canvas.height);
  context.save();
  context.imageSmoothingEnabled = false;
  context.drawImage(small.canvas, 0, 0, size.width, size.height);
  context.restore();
}

/** Halved again and again and drawn large: each step averages, so that the result is close to a Gaussian blur. */
export function drawBlurred(context: CanvasRenderingContext2D, picture: Picture, size: Size): void {
  let from: Picture = picture;
  const steps: CanvasRenderingContext2D[] = [];
  for (let step = 1; step <= BLUR_STEPS; step += 1) {
    const half = { width: Math.ceil(size.width / 2 ** step), height: Math.ceil(size.height / 2 ** step) };
    const smaller = scratch(`blur ${step}`, half);
    smaller.drawImage(from, 0, 0, half.width, half.height);
    steps.push(smaller);
    from = smaller.canvas;
  }
  // Back up by the same steps: one large step would show the pixels.
  for (const larger of steps.slice(0, -1).reverse()) {
    larger.drawImage(from, 0, 0, larger.canvas.width, larger.canvas.height);
    from = larger.canvas;
  }
  context.drawImage(from, 0, 0, size.width, size.height);
}

const scratches = new Map<string, CanvasRenderingContext2D>();

/** An empty canvas that is used again under its name. */
export function scratch(name: string, { width, height }: Size): CanvasRenderingContext2D {
  let context = scratches.get(name);
  if (!context) {
    context = document.createElement("canvas").getContext("2d")!;
    scratches.set(name, context);
  }
  context.canvas.width = width; // which also empties it
  context.canvas.height = height;
  return context;
}
