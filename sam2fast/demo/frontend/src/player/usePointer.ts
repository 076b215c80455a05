import { useRef, useState, type PointerEvent, type RefObject } from "react";
import { masksAt } from "../masks/masks";
import { maskHas } from "../masks/rle";
import type { Box } from "../state/scene";
import * as editing from "../state/editing";
import { getState, setState } from "../state/store";
import { boxBetween, toShares, type Spot } from "./geometry";
import { HOLD_MS, readGesture } from "./gestures";
import { pause } from "./playback";

interface Press {
  readonly id: number;
  readonly start: Spot;
  readonly client: Spot;
  readonly button: number;
  readonly timer: number;
  moved: number;
}

/** Clicks, boxes and long presses on the frame. `draft` is the box that is being drawn. */
export function usePointer(surface: RefObject<HTMLElement | null>) {
  const press = useRef<Press | null>(null);
  const [draft, setDraft] = useState<Box | null>(null);

  const spotOf = (event: PointerEvent) =>
    toShares({ x: event.clientX, y: event.clientY }, surface.current!.getBoundingClientRect());

  const finish = (end: Spot, held: boolean) => {
    const { current } = press;
    press.current = null;
    setDraft(null);
    if (!current) return;
    clearTimeout(current.timer);
    const action = readGesture({ ...current, end, held, tool: getState().tool });
    if (action?.kind === "point") editing.addPoint({ ...action.spot, positive: action.positive });
    if (action?.kind === "box") editing.setBox(action.box);
  };

  return {
    draft,
    handlers: {
      onPointerDown: (event: PointerEvent<HTMLElement>) => {
        const { playing, phase } = getState();
        if (playing) return pause(); // moving objects are hard to click
        if (phase !== "ready" || press.current) return;
        event.currentTarget.setPointerCapture(event.pointerId);
        const start = spotOf(event);
        const isTouch = event.pointerType === "touch";
        const timer = isTouch ? window.setTimeout(() => finish(start, true), HOLD_MS) : 0;
        const client = { x: event.clientX, y: event.clientY };
        press.current = { id: event.pointerId, start, client, button: event.button, timer, moved: 0 };
      },
      onPointerMove: (event: PointerEvent<HTMLElement>) => {
        const { current } = press;
        if (!current) return event.pointerType === "mouse" ? hover(spotOf(event)) : undefined;
        if (current.id !== event.pointerId) return;
        const distance = Math.hypot(event.clientX - current.client.x, event.clientY - current.client.y);
        current.moved = Math.max(current.moved, distance);
        if (current.moved > 8) clearTimeout(current.timer);
        if (getState().tool === "box" && current.button === 0) setDraft(boxBetween(current.start, spotOf(event)));
      },
      onPointerUp: (event: PointerEvent<HTMLElement>) => {
        if (press.current?.id === event.pointerId) finish(spotOf(event), false);
      },
      onPointerCancel: () => {
        if (press.current) clearTimeout(press.current.timer);
        press.current = null;
        setDraft(null);
      },
      // The focused frame has shortcuts of its own. A click must not focus it, or the page's shortcuts would stop working.
      onMouseDown: (event: { preventDefault(): void }) => {
        event.preventDefault();
        if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
      },
      onPointerLeave: () => setState({ hovered: null }),
      onContextMenu: (event: { preventDefault(): void }) => event.preventDefault(),
    },
  };
}

/** Marks the object under the pointer, the smallest where several overlap. */
function hover({ x, y }: Spot): void {
  const { masks, frame, hovered, playing } = getState();
  let best: { id: number; area: number } | null = null;
  for (const [id, mask] of playing ? [] : masksAt(masks, frame)) {
    const isInside = maskHas(mask, Math.floor(x * mask.width), Math.floor(y * mask.height));
    if (isInside && (!best || mask.area < best.area)) best = { id, area: mask.area };
  }
  if ((best?.id ?? null) !== hovered) setState({ hovered: best?.id ?? null });
}
