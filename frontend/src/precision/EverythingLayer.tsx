import { useEffect, useRef } from "react";
import { paintMask } from "../masks/rle";
import { COLOURS } from "../scene/scene";
import { useEverything, type Candidate } from "./everything";

const PIXELS = 1e6; // of the layer; the browser enlarges it
const [QUIET, CHOSEN, HIGHLIGHTED] = [0x50, 0xb0, 0xe0]; // opacities, up to 0xff
const OUTLINE = 0xffffffff; // white

/** The candidates over the photograph, each in a colour. */
export function EverythingLayer() {
  const { candidates, highlighted } = useEverything();
  const canvas = useRef<HTMLCanvasElement>(null);
  const [first] = candidates ?? [];
  const step = first ? Math.ceil(Math.sqrt((first.width * first.height) / PIXELS)) : 1;
  const [width, height] = first ? [Math.ceil(first.width / step), Math.ceil(first.height / step)] : [1, 1];

  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context || !candidates) return;
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const onTop = candidates.filter(({ id }) => id === highlighted);
    for (const one of [...candidates, ...onTop]) paintMask(one, pixels, pixelOf(one, one.id === highlighted), step);
    for (let pixel = 0; pixel < pixels.length - width; pixel += 1) {
      const right = (pixel + 1) % width ? pixel + 1 : pixel;
      if (pixels[pixel] !== pixels[right] || pixels[pixel] !== pixels[pixel + width]) pixels[pixel] = OUTLINE;
    }
    context.putImageData(image, 0, 0);
  }, [candidates, highlighted, width, height, step]);

  return first ? <canvas ref={canvas} className="everything" width={width} height={height} /> : null;
}

/** A pixel of ImageData in the candidate's colour, stored as ABGR on little-endian machines. */
function pixelOf({ id, isChosen }: Candidate, isHighlighted: boolean): number {
  const rgb = parseInt(COLOURS[id % COLOURS.length]!.slice(1), 16);
  const opacity = isHighlighted ? HIGHLIGHTED : isChosen ? CHOSEN : QUIET;
  return ((opacity << 24) | ((rgb & 0xff) << 16) | (rgb & 0xff00) | (rgb >> 16)) >>> 0;
}
