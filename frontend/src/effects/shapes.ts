import type { Size } from "../scene/geometry";
import { scratch, type Context } from "./canvases";

/** Drawings on and around objects. */

export interface Bounds {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

type Drawing = (context: Context) => void;

// Drawings in a square from -1 to 1.
const smile: Drawing = (context) => {
  disc(context, 0, 0, 1, "#ffcf33");
  for (const x of [-0.36, 0.36]) {
    context.beginPath();
    context.ellipse(x, -0.25, 0.12, 0.2, 0, 0, 2 * Math.PI);
    context.fillStyle = "#4a2f00";
    context.fill();
  }
  context.beginPath();
  context.arc(0, 0.08, 0.58, 0.15 * Math.PI, 0.85 * Math.PI);
  context.closePath();
  context.fillStyle = "#7a1f12";
  context.fill();
};

const star: Drawing = (context) => {
  context.beginPath();
  for (let corner = 0; corner < 10; corner += 1) {
    const radius = corner % 2 ? 0.45 : 1;
    const angle = (corner * Math.PI) / 5;
    context.lineTo(radius * Math.sin(angle), -radius * Math.cos(angle));
  }
  context.closePath();
  outlined(context, "#ff5fa2", "#ffffff");
};

const heart: Drawing = (context) => {
  context.beginPath();
  context.moveTo(0, 0.95);
  context.bezierCurveTo(-1.5, -0.1, -0.85, -1.15, 0, -0.45);
  context.bezierCurveTo(0.85, -1.15, 1.5, -0.1, 0, 0.95);
  outlined(context, "#e6193b", "#ffd6dc");
};

const DRAWINGS = [smile, star, heart];

function disc(context: Context, x: number, y: number, radius: number, style: string): void {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = style;
  context.fill();
}

function outlined(context: Context, inside: string, line: string): void {
  context.fillStyle = inside;
  context.fill();
  context.lineWidth = 0.08;
  context.strokeStyle = line;
  context.stroke();
}

/** Draws one of three drawings over an object. @param share its size as a share of the object's */
export function drawEmoji(
  context: Context,
  { left, top, width, height }: Bounds,
  drawing: number,
  share: number,
): void {
  const radius = (share * Math.max(width, height)) / 2;
  context.save();
  context.translate(left + width / 2, top + height / 2);
  context.scale(radius, radius);
  DRAWINGS[drawing]!(context);
  context.restore();
}

/** Draws rays from the middle of an object to the frame's edges, which turn slowly. */
export function drawBurst(
  context: Context,
  size: Size,
  bounds: Bounds,
  style: string,
  isThin: boolean,
  frame: number,
): void {
  const rays = isThin ? 36 : 14;
  const reach = size.width + size.height;
  context.save();
  context.translate(bounds.left + bounds.width / 2, bounds.top + bounds.height / 2);
  context.rotate(frame / 48);
  context.fillStyle = style;
  context.globalAlpha = 0.85;
  for (let ray = 0; ray < rays; ray += 1) {
    const from = (2 * Math.PI * ray) / rays;
    const to = from + (Math.PI * (isThin ? 0.45 : 1)) / rays;
    context.beginPath();
    context.moveTo(0, 0);
    context.lineTo(reach * Math.cos(from), reach * Math.sin(from));
    context.lineTo(reach * Math.cos(to), reach * Math.sin(to));
    context.fill();
  }
  context.restore();
}

/** Draws an arrow over an object that points at it, and moves up and down. */
export function drawArrow(
  context: Context,
  { left, top, width, height }: Bounds,
  style: string,
  isLarge: boolean,
  frame: number,
): void {
  const length = (isLarge ? 0.8 : 0.45) * Math.max(width, height);
  const gap = length * (0.25 + 0.15 * Math.sin(frame / 4));
  context.save();
  context.translate(left + width / 2, Math.max(top - gap, length)); // inside the frame, also at its upper edge
  context.scale(length, length);
  context.beginPath();
  for (const [x, y] of ARROW) context.lineTo(x, y);
  context.closePath();
  context.lineJoin = "round";
  outlined(context, style, "#14181f");
  context.restore();
}

// From the tip, clockwise.
const ARROW = [
  [0, 0],
  [-0.4, -0.42],
  [-0.16, -0.42],
  [-0.16, -1],
  [0.16, -1],
  [0.16, -0.42],
  [0.4, -0.42],
] as const;

const SHAPES: readonly ((context: Context, bounds: Bounds) => void)[] = [
  (context, { left, top, width, height }) => {
    context.ellipse(left + width / 2, top + height / 2, 0.72 * width, 0.72 * height, 0, 0, 2 * Math.PI);
  },
  (context, { left, top, width, height }) => {
    context.arc(left + width / 2, top + height / 2, 0.62 * Math.max(width, height), 0, 2 * Math.PI);
  },
  (context, { left, top, width, height }) => {
    const margin = 0.08 * Math.max(width, height);
    context.roundRect(left - margin, top - margin, width + 2 * margin, height + 2 * margin, margin);
  },
];

/** Darkens the frame but for a shape around each object. */
export function drawSpotlight(
  context: Context,
  size: Size,
  objects: readonly Bounds[],
  shape: number,
  isDark: boolean,
): void {
  const shade = scratch("shade", size);
  shade.fillStyle = isDark ? "rgb(0 0 0 / 88%)" : "rgb(0 0 0 / 60%)";
  shade.fillRect(0, 0, size.width, size.height);
  for (const bounds of objects) {
    shade.globalCompositeOperation = "destination-out";
    shade.beginPath();
    SHAPES[shape]!(shade, bounds);
    shade.fillStyle = "#000";
    shade.fill();
    shade.globalCompositeOperation = "source-over";
    shade.lineWidth = Math.max(2, Math.max(size.width, size.height) / 240);
    shade.strokeStyle = "#fff";
    shade.stroke();
  }
  context.drawImage(shade.canvas, 0, 0);
}
