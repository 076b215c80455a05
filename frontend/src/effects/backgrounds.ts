import type { Size } from "../scene/geometry";
import { drawBackdrop } from "./backdrop";
import { drawBlurred, drawPixelated, fill, type Context } from "./canvases";
import { COLOUR, type Look } from "./look";
import { dark, drawEdges, drawToned, gradient, grey, vivid } from "./tones";

export const BLURS = [3, 4, 5]; // halvings of the size
export const CELLS = [72, 48, 24]; // along the longer side
export const CONTRASTS = [1, 1.5, 0.5];
/** The first one is transparent. */
export const FILLS = [null, "#000", "#fff", "#00b140"];

export const WORDS = "click include exclude box track refine cut blur paint name export".split(" ");

/** Draws the background; what is erased stays transparent. @param frame its number, for effects that move */
export function drawBackground(
  context: Context,
  image: CanvasImageSource,
  size: Size,
  { background: { effect, variant }, words = "", colour = COLOUR, image: backdrop = "" }: Look,
  frame: number,
): void {
  switch (effect) {
    case "original": {
      const tone = [null, vivid, dark][variant];
      return tone ? drawToned(context, image, size, tone) : context.drawImage(image, 0, 0, size.width, size.height);
    }
    case "erase": {
      const style = FILLS[variant];
      return style ? fill(context, size, style) : undefined;
    }
    case "colour":
      return fill(context, size, colour);
    case "image":
      return drawBackdrop(context, size, backdrop);
    case "gradient":
      return drawToned(context, image, size, gradient(variant));
    case "pixelate":
      return drawPixelated(context, image, size, CELLS[variant]!);
    case "desaturate":
      return drawToned(context, image, size, grey(CONTRASTS[variant]!));
    case "text": {
      const given = words.split(/\s+/).filter(Boolean);
      const shown = given.length > 0 ? given : WORDS;
      return (variant === 0 ? drawZoomingWords : drawScrollingText)(context, size, shown, frame);
    }
    case "blur":
      return drawBlurred(context, image, size, BLURS[variant]!);
    case "sobel":
      return drawEdges(context, image, size, variant % 2 === 1, variant >= 2);
  }
}

/** One word after the other grows from the centre. */
function drawZoomingWords(context: Context, size: Size, words: readonly string[], frame: number): void {
  const LENGTH = 12; // frames of a word
  fill(context, size, "#17202e");
  context.save();
  context.translate(size.width / 2, size.height / 2);
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let age = 2; age >= 0; age -= 1) {
    const number = Math.floor(frame / LENGTH) - age + 3 * words.length; // never negative
    const word = words[number % words.length]!;
    const progress = (age + (frame % LENGTH) / LENGTH) / 3;
    context.font = `900 ${(size.height * 1.2 * progress ** 2 + 4).toFixed(1)}px system-ui, sans-serif`;
    context.fillStyle = ["#5fb3ff", "#ffd166", "#f2f4f8"][number % 3]!;
    context.globalAlpha = 1 - progress;
    context.fillText(word.toUpperCase(), 0, 0);
  }
  context.restore();
}

/** Lines of words that move up. */
function drawScrollingText(context: Context, size: Size, words: readonly string[], frame: number): void {
  const height = Math.max(10, size.height / 14);
  fill(context, size, "#f5efe0");
  context.save();
  context.font = `600 ${(0.72 * height).toFixed(1)}px system-ui, sans-serif`;
  context.fillStyle = "#3a3126";
  context.textBaseline = "top";
  const shift = (frame * height) / 24;
  const first = Math.floor(shift / height);
  for (let line = first; (line - first - 1) * height < size.height; line += 1) {
    let x = -((line * 37) % 100) * (size.width / 400);
    for (let place = line * 5; x < size.width; place += 1) {
      const word = words[place % words.length]!;
      context.fillText(word, x, line * height - shift);
      x += context.measureText(`${word} `).width;
    }
  }
  context.restore();
}
