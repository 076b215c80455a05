import { useEffect, useRef } from "react";
import { findObject } from "../state/scene";
import { useStore } from "../state/store";
import { drawStroke, useBrush } from "./brush";
import { maskCanvas } from "./Candidates";
import { usePreview } from "./preview";

const OUTLINE = 1 / 240; // of the frame's width

/** The preview of a click, or the stroke that is being painted, over the frame. */
export function SketchLayer({ width, height }: { width: number; height: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const mask = usePreview((state) => state.mask);
  const { stroke, size } = useBrush();
  const colour = useStore((state) => findObject(state.scene, state.active)?.colour ?? "#fff");

  useEffect(() => {
    const context = canvas.current!.getContext("2d")!;
    context.clearRect(0, 0, width, height);
    if (stroke) {
      drawStroke(context, stroke, size, stroke.isAdding ? colour : "#000");
    } else if (mask) {
      const shape = maskCanvas(mask, colour);
      const white = maskCanvas(mask, "#fff");
      const line = Math.max(1, OUTLINE * width);
      for (let side = 0; side < 8; side += 1) {
        const angle = (side * Math.PI) / 4;
        context.drawImage(white, line * Math.cos(angle), line * Math.sin(angle));
      }
      context.globalCompositeOperation = "destination-out";
      context.drawImage(shape, 0, 0);
      context.globalCompositeOperation = "source-over";
      context.globalAlpha = 0.4;
      context.drawImage(shape, 0, 0);
      context.globalAlpha = 1;
    }
  }, [mask, stroke, size, colour, width, height]);

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
