import { useEffect, useRef } from "react";
import { create } from "zustand";
import type { Spot } from "./geometry";
import { placed, useZoom } from "./zoom";

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
  const { view, frame, room } = useZoom();
  const canvas = useRef<HTMLCanvasElement>(null);

  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    const source = document.querySelector<HTMLCanvasElement>(".frame canvas");
    if (!spot || !context || !source) return;
    const side = (SIZE / MAGNIFICATION / (frame.width * view.scale)) * source.width; // in pixels of the video
    context.clearRect(0, 0, SIZE, SIZE);
    for (const layer of document.querySelectorAll<HTMLCanvasElement>(".frame canvas")) {
      const [x, y] = [spot.x * layer.width - side / 2, spot.y * layer.height - side / 2];
      context.drawImage(layer, x, y, side, side, 0, 0, SIZE, SIZE);
    }
    drawCross(context);
  });

  if (!spot) return null;
  const { left, top, width, height } = placed(view, frame, room);
  const finger = { x: left + spot.x * width, y: top + spot.y * height };
  const above = finger.y - DISTANCE - SIZE;
  // Beside the finger where there is no room above it.
  const isBeside = above < 0;
  const beside = finger.x > room.width / 2 ? finger.x - DISTANCE - SIZE : finger.x + DISTANCE;
  const place = isBeside
    ? { left: beside, top: Math.max(0, finger.y - SIZE / 2) }
    : { left: Math.min(room.width - SIZE, Math.max(0, finger.x - SIZE / 2)), top: above };
  return <canvas ref={canvas} className="loupe" style={place} width={SIZE} height={SIZE} aria-hidden="true" />;
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
