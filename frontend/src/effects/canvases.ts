import type { Size } from "../scene/geometry";

export type Context = CanvasRenderingContext2D;

const scratches = new Map<string, Context>();

/** An empty canvas, reused by name. */
export function scratch(name: string, { width, height }: Size): Context {
  let context = scratches.get(name);
  if (!context) {
    context = document.createElement("canvas").getContext("2d", { willReadFrequently: name.startsWith("pixels") })!;
    scratches.set(name, context);
  }
  context.canvas.width = width; // also clears the canvas
  context.canvas.height = height;
  return context;
}

export function fill(context: Context, { width, height }: Size, style: string): void {
  context.fillStyle = style;
  context.fillRect(0, 0, width, height);
}

/** @param across number of cells along the longer side */
export function drawPixelated(context: Context, image: CanvasImageSource, size: Size, across: number): void {
  const cell = Math.max(size.width, size.height) / across;
  const small = scratch("pixelate", { width: Math.ceil(size.width / cell), height: Math.ceil(size.height / cell) });
  small.drawImage(image, 0, 0, small.canvas.width, small.canvas.height);
  context.save();
  context.imageSmoothingEnabled = false;
  context.drawImage(small.canvas, 0, 0, size.width, size.height);
  context.restore();
}

/**
 * Blurs by halving the size repeatedly and scaling back; averaging makes it close to a Gaussian blur.
 *
 * @param halvings how often
 */
export function drawBlurred(context: Context, image: CanvasImageSource, size: Size, halvings: number): void {
  let from: CanvasImageSource = image;
  const steps: Context[] = [];
  for (let step = 1; step <= halvings; step += 1) {
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
