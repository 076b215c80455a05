import { useLayoutEffect, useRef } from "react";
import { create } from "zustand";
import type { Spot } from "../scene/geometry";

const SIZE = 132; // pixels
const MAGNIFICATION = 2.5; // of what the page shows
const DISTANCE = 72; // from the finger to the loupe's middle and its edge

const useLoupe = create<{ spot: Spot | null }>(() => ({ spot: null }));

/** Shows the loupe for a spot of the frame; null hides it. */
export function aim(spot: Spot | null): void {
  if (useLoupe.getState().spot !== spot) useLoupe.setState({ spot });
}

/** An enlarged part of the frame beside the finger that covers it; the click goes to its middle. */
export function Loupe() {
  const { spot } = useLoupe();
  const canvas = useRef<HTMLCanvasElement>(null);

  useLayoutEffect(() => {
    const context = canvas.current?.getContext("2d");
    const surface = document.querySelector(".frame");
    if (!spot || !context || !surface) return;
    const shown = surface.getBoundingClientRect();
    context.clearRect(0, 0, SIZE, SIZE);
    for (const layer of surface.querySelectorAll("canvas")) {
      const side = (SIZE / MAGNIFICATION / shown.width) * layer.width; // in pixels of the video
      const [x, y] = [spot.x * layer.width - side / 2, spot.y * layer.height - side / 2];
      context.drawImage(layer, x, y, side, side, 0, 0, SIZE, SIZE);
    }
    drawCross(context);
    const { left, top } = placeBeside({
      x: shown.left + spot.x * shown.width,
      y: shown.top + spot.y * shown.height,
    });
    context.canvas.style.translate = `${left}px ${top}px`;
  });

  return spot && <canvas ref={canvas} className="loupe" width={SIZE} height={SIZE} aria-hidden="true" />;
}

/** Where the loupe is on the page: above the finger, or beside it where there is no room. */
function placeBeside(finger: Spot): { left: number; top: number } {
  const inside = (value: number, length: number) => Math.min(length - SIZE, Math.max(0, value));
  const above = finger.y - DISTANCE - SIZE;
  if (above >= 0) return { left: inside(finger.x - SIZE / 2, innerWidth), top: above };
  const isOnRight = finger.x > innerWidth / 2;
  const left = isOnRight ? finger.x - DISTANCE - SIZE : finger.x + DISTANCE;
  return { left, top: inside(finger.y - SIZE / 2, innerHeight) };
}

/** Marks the middle, where the click goes. */
function drawCross(context: CanvasRenderingContext2D): void {
  const [middle, arm, gap] = [SIZE / 2, 12, 3];
  context.beginPath();
  for (const sign of [-1, 1]) {
    context.moveTo(middle + sign * gap, middle);
    context.lineTo(middle + sign * arm, middle);
    context.moveTo(middle, middle + sign * gap);
    context.lineTo(middle, middle + sign * arm);
  }
  for (const [style, width] of [
    ["#000", 4],
    ["#fff", 2],
  ] as const) {
    [context.strokeStyle, context.lineWidth] = [style, width];
    context.stroke();
  }
}
