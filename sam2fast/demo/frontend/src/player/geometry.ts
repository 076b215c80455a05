import type { Box } from "../state/scene";

export interface Size {
  readonly width: number;
  readonly height: number;
}

export interface Spot {
  /** Shares of the picture's width and height. */
  readonly x: number;
  readonly y: number;
}

/** The largest size with the picture's proportions inside the given room, in whole pixels. */
export function fitInside(picture: Size, room: Size): Size {
  const scale = Math.min(room.width / picture.width, room.height / picture.height);
  return {
    width: Math.max(1, Math.floor(picture.width * scale)),
    height: Math.max(1, Math.floor(picture.height * scale)),
  };
}

/** A place on the page as shares of the picture, kept inside it. */
export function toShares(client: { x: number; y: number }, picture: DOMRect): Spot {
  const share = (value: number, start: number, length: number) => Math.min(1, Math.max(0, (value - start) / length));
  return { x: share(client.x, picture.left, picture.width), y: share(client.y, picture.top, picture.height) };
}

export function boxBetween(a: Spot, b: Spot): Box {
  return {
    left: Math.min(a.x, b.x),
    top: Math.min(a.y, b.y),
    right: Math.max(a.x, b.x),
    bottom: Math.max(a.y, b.y),
  };
}

/** The frame that is on show at a time of the video, in seconds. */
export function frameAt(seconds: number, fps: number, numFrames: number): number {
  return Math.min(numFrames - 1, Math.max(0, Math.floor(seconds * fps + 1e-3)));
}

/** The middle of a frame: whichever way a browser rounds, it shows that frame. */
export function timeOf(frame: number, fps: number): number {
  return (frame + 0.5) / fps;
}
