import type { Box } from "./scene";

export interface Size {
  readonly width: number;
  readonly height: number;
}

export interface Spot {
  /** Shares of the frame's width and height. */
  readonly x: number;
  readonly y: number;
}

/** The largest size with the content's aspect ratio inside the room, in whole pixels. */
export function fitInside(content: Size, room: Size): Size {
  const scale = Math.min(room.width / content.width, room.height / content.height);
  return {
    width: Math.max(1, Math.floor(content.width * scale)),
    height: Math.max(1, Math.floor(content.height * scale)),
  };
}

/** The content's size in pixels, reduced to a number of them. */
export function atMost(pixels: number, { width, height }: Size): Size {
  const scale = Math.min(1, Math.sqrt(pixels / (width * height)));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

export interface Rectangle extends Size {
  readonly left: number;
  readonly top: number;
}

/**
 * The square around a rectangle with a margin, inside the whole.
 *
 * @param margin as a share of the rectangle's longer side
 * @returns a rectangle that is cut where the square is larger than the whole
 */
export function cropAround({ left, top, width, height }: Rectangle, whole: Size, margin: number): Rectangle {
  const side = (1 + 2 * margin) * Math.max(width, height);
  const fit = (middle: number, length: number) => {
    const size = Math.min(side, length);
    return [Math.min(length - size, Math.max(0, middle - size / 2)), size] as const;
  };
  const [x, wide] = fit(left + width / 2, whole.width);
  const [y, high] = fit(top + height / 2, whole.height);
  return { left: x, top: y, width: wide, height: high };
}

/** A position on the page as shares of a rectangle, clamped to it. */
export function toShares(client: { x: number; y: number }, rect: DOMRect): Spot {
  const share = (value: number, start: number, length: number) => Math.min(1, Math.max(0, (value - start) / length));
  return { x: share(client.x, rect.left, rect.width), y: share(client.y, rect.top, rect.height) };
}

export function boxBetween(a: Spot, b: Spot): Box {
  return {
    left: Math.min(a.x, b.x),
    top: Math.min(a.y, b.y),
    right: Math.max(a.x, b.x),
    bottom: Math.max(a.y, b.y),
  };
}
