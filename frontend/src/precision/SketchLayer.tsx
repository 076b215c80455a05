import { useEffect, useRef } from "react";
import { maskCanvas } from "../masks/bitmaps";
import type { Spot } from "../scene/geometry";
import { findObject } from "../scene/scene";
import { useStore } from "../state/store";
import { drawStroke, useBrush } from "./brush";
import { usePreview } from "./preview";

const OUTLINE = 1 / 240; // of the frame's width
const RING = 1 / 600;

/** The preview of a click, or the stroke that is being painted, over the frame. */
export function SketchLayer({ width, height }: { width: number; height: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const mask = usePreview((state) => state.mask);
  const { stroke, size, cursor } = useBrush();
  const isBrush = useStore(({ tool }) => tool === "paint" || tool === "wipe");
  const colour = useStore((state) => findObject(state.scene, state.active)?.colour ?? "#ffffff");

  useEffect(() => {
    const context = canvas.current!.getContext("2d")!;
    context.clearRect(0, 0, width, height);
    if (stroke) {
      drawStroke(context, stroke, size, stroke.isAdding ? colour : "#000");
    } else if (mask) {
      const shape = maskCanvas(mask, colour);
      const white = maskCanvas(mask, "#ffffff");
      const line = Math.max(1, OUTLINE * width);
      for (let side = 0; side < 8; side += 1) {
        const angle = (side * Math.PI) / 4;
        context.drawImage(white, line * Math.cos(angle), line * Math.sin(angle), width, height);
      }
      context.globalCompositeOperation = "destination-out";
      context.drawImage(shape, 0, 0, width, height);
      context.globalCompositeOperation = "source-over";
      context.globalAlpha = 0.4;
      context.drawImage(shape, 0, 0, width, height);
      context.globalAlpha = 1;
    }
    if (cursor && isBrush) drawRing(context, cursor, size);
  }, [mask, stroke, size, cursor, isBrush, colour, width, height]);

  return (
    <canvas
      ref={canvas}
      className={`sketch ${stroke ? "stroke" : ""}`}
      data-shows={stroke ? "stroke" : mask ? "preview" : "nothing"}
      width={width}
      height={height}
    />
  );
}

/** The outline of the brush. */
function drawRing(context: CanvasRenderingContext2D, { x, y }: Spot, size: number): void {
  const { width, height } = context.canvas;
  const line = RING * width;
  context.beginPath();
  context.arc(x * width, y * height, (size * width) / 2, 0, 2 * Math.PI);
  for (const [style, thickness] of [
    ["#000", 3 * line],
    ["#fff", line],
  ] as const) {
    [context.strokeStyle, context.lineWidth] = [style, thickness];
    context.stroke();
  }
}
