import type { Size } from "../scene/geometry";
import { scratch, type Context } from "./canvases";

/** Effects that compute every pixel. `context.filter` is not used: Safari lacks it. */

/** The new red, green and blue of a pixel. */
type Tone = (red: number, green: number, blue: number) => readonly [number, number, number];

const luminance = (red: number, green: number, blue: number) => 0.299 * red + 0.587 * green + 0.114 * blue;
const contrast = (value: number, factor: number) => (value - 128) * factor + 128;

export function contrasted(factor: number): Tone {
  return (red, green, blue) => [contrast(red, factor), contrast(green, factor), contrast(blue, factor)];
}

export function grey(factor: number): Tone {
  return (red, green, blue) => {
    const value = contrast(luminance(red, green, blue), factor);
    return [value, value, value];
  };
}

/** Grey grains of a frame, the same at every drawing. */
export function noise(frame: number): Tone {
  let seed = frame + 1;
  return (red, green, blue) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const value = 0.25 * luminance(red, green, blue) + 0.75 * (seed >>> 24);
    return [value, value, value];
  };
}

/** Stronger colours and contrast. */
export const vivid: Tone = (red, green, blue) => {
  const grey = luminance(red, green, blue);
  const stronger = (value: number) => contrast(grey + 1.35 * (value - grey), 1.15);
  return [stronger(red), stronger(green), stronger(blue)];
};

export const dark: Tone = (red, green, blue) => [0.35 * red, 0.35 * green, 0.35 * blue];

export const sepia: Tone = (red, green, blue) => {
  const grey = luminance(red, green, blue);
  return [1.07 * grey + 20, 0.9 * grey + 12, 0.68 * grey];
};

type Colour = readonly [number, number, number];

// From dark to light.
const GRADIENTS: readonly (readonly Colour[])[] = [
  [[26, 7, 71], [178, 24, 140], [255, 138, 76], [255, 240, 170]],
  [[3, 19, 58], [0, 98, 155], [0, 196, 180], [232, 255, 196]],
  [[24, 40, 8], [44, 128, 54], [226, 196, 44], [255, 250, 224]],
]; // prettier-ignore

/** Colours by brightness. */
export function gradient(variant: number): Tone {
  const stops = GRADIENTS[variant]!;
  const table = Array.from({ length: 256 }, (_, value): Colour => {
    const place = (value / 255) * (stops.length - 1);
    const [from, to] = [stops[Math.floor(place)]!, stops[Math.ceil(place)]!];
    const mix = (part: 0 | 1 | 2) => from[part] + (to[part] - from[part]) * (place % 1);
    return [mix(0), mix(1), mix(2)];
  });
  return (red, green, blue) => table[Math.round(luminance(red, green, blue))]!;
}

export function drawToned(context: Context, image: CanvasImageSource, size: Size, tone: Tone): void {
  const drawn = scratch("pixels", size);
  drawn.drawImage(image, 0, 0, size.width, size.height);
  const pixels = drawn.getImageData(0, 0, size.width, size.height);
  const { data } = pixels;
  for (let at = 0; at < data.length; at += 4) {
    [data[at], data[at + 1], data[at + 2]] = tone(data[at]!, data[at + 1]!, data[at + 2]!) as [number, number, number];
  }
  drawn.putImageData(pixels, 0, 0);
  context.drawImage(drawn.canvas, 0, 0);
}

/** Draws the edges of the image, light on dark or dark on light, grey or in the image's colours. */
export function drawEdges(
  context: Context,
  image: CanvasImageSource,
  size: Size,
  isLight: boolean,
  isGrey: boolean,
): void {
  const { width, height } = size;
  const drawn = scratch("pixels", size);
  drawn.drawImage(image, 0, 0, width, height);
  const pixels = drawn.getImageData(0, 0, width, height);
  const { data } = pixels;
  const grey = new Float32Array(width * height);
  for (let at = 0; at < grey.length; at += 1) {
    grey[at] = luminance(data[4 * at]!, data[4 * at + 1]!, data[4 * at + 2]!);
  }
  for (let y = 0; y < height; y += 1) {
    const [up, down] = [Math.max(0, y - 1) * width, Math.min(height - 1, y + 1) * width];
    for (let x = 0; x < width; x += 1) {
      const [left, right, row] = [Math.max(0, x - 1), Math.min(width - 1, x + 1), y * width];
      // Sobel's two kernels.
      const corners = grey[down + right]! - grey[up + left]!;
      const others = grey[up + right]! - grey[down + left]!;
      const across = corners + others + 2 * (grey[row + right]! - grey[row + left]!);
      const along = corners - others + 2 * (grey[down + x]! - grey[up + x]!);
      const edge = Math.min(1, Math.hypot(across, along) / 255);
      for (let part = 4 * (row + x), last = part + 3; part < last; part += 1) {
        const ink = isGrey ? (isLight ? 0 : 255) : data[part]!;
        data[part] = isLight ? 255 + (ink - 255) * edge : ink * edge;
      }
    }
  }
  drawn.putImageData(pixels, 0, 0);
  context.drawImage(drawn.canvas, 0, 0);
}
