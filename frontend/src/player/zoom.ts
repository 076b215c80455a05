import { create } from "zustand";
import type { Size, Spot } from "../scene/geometry";
import { getState, useStore } from "../state/store";

/** What part of the frame is shown. */
export interface View {
  /** 1 shows the whole frame. */
  readonly scale: number;
  /** The spot of the frame in the middle of its room. */
  readonly centre: Spot;
}

export const WHOLE: View = { scale: 1, centre: { x: 0.5, y: 0.5 } };
export const ZOOM_STEP = 1.25;
const MAX_SCALE = 8;
const NO_ROOM: Size = { width: 1, height: 1 };

interface Zoom {
  view: View;
  /** The size of the whole frame, and that of its room. */
  frame: Size;
  room: Size;
}

export const useZoom = create<Zoom>(() => ({ view: WHOLE, frame: NO_ROOM, room: NO_ROOM }));

useStore.subscribe((state, before) => {
  if (state.clip?.path !== before.clip?.path) useZoom.setState({ view: WHOLE });
});

/** A view scaled by a factor, with a spot of the frame staying where it is. */
export function scaled({ scale, centre }: View, factor: number, spot: Spot): View {
  const next = Math.min(MAX_SCALE, Math.max(1, scale * factor));
  const move = (from: number, to: number) => to - ((to - from) * scale) / next;
  return { scale: next, centre: { x: move(centre.x, spot.x), y: move(centre.y, spot.y) } };
}

/** A view whose frame fills the room as far as it can: it has no gap that moving it would close. */
export function clamped({ scale, centre }: View, frame: Size, room: Size): View {
  const inside = (value: number, length: number, whole: number) => {
    const half = Math.min(0.5, whole / length / scale / 2);
    return Math.min(1 - half, Math.max(half, value));
  };
  return {
    scale,
    centre: { x: inside(centre.x, frame.width, room.width), y: inside(centre.y, frame.height, room.height) },
  };
}

/** Position and size of the frame in its room. */
export function placed({ scale, centre }: View, frame: Size, room: Size) {
  const [width, height] = [frame.width * scale, frame.height * scale];
  return { left: room.width / 2 - centre.x * width, top: room.height / 2 - centre.y * height, width, height };
}

function show(view: View): void {
  const { frame, room } = useZoom.getState();
  useZoom.setState({ view: clamped(view, frame, room) });
}

/** Zooms by a factor, at a spot of the frame, or else at the middle of the view. */
export function zoomBy(factor: number, spot?: Spot): void {
  const { view } = useZoom.getState();
  if (getState().clip) show(scaled(view, factor, spot ?? view.centre));
}

/** Moves the frame by pixels of the page. */
export function panBy(right: number, down: number): void {
  const { view, frame } = useZoom.getState();
  const { scale, centre } = view;
  show({
    scale,
    centre: { x: centre.x - right / (frame.width * scale), y: centre.y - down / (frame.height * scale) },
  });
}

/** Moves the view by shares of the room; by keyboard. */
export function panByShares(right: number, down: number): void {
  const { room } = useZoom.getState();
  panBy(-right * room.width, -down * room.height);
}

export function showWhole(): void {
  useZoom.setState({ view: WHOLE });
}

export function isZoomed(): boolean {
  return useZoom.getState().view.scale > 1;
}

/** Keeps the sizes that the view is limited by. */
export function setRoom(frame: Size, room: Size): void {
  useZoom.setState(({ view }) => ({ frame, room, view: clamped(view, frame, room) }));
}
