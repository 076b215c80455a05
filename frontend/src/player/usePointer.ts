import { useEffect, useRef, useState, type PointerEvent, type RefObject } from "react";
import { masksAt } from "../masks/masks";
import { maskHas } from "../masks/rle";
import { beginStroke, cancelStroke, continueStroke, endStroke, useBrush } from "../precision/brush";
import { candidateAt, chooseAt, isChoosing, useEverything } from "../precision/everything";
import { endPreview, hoverPreview } from "../precision/preview";
import { boxBetween, toShares, type Spot } from "../scene/geometry";
import type { Box } from "../scene/scene";
import { shownMask } from "../scene/shown";
import * as editing from "../state/editing";
import { getState, notify, setState, useStore } from "../state/store";
import { DRAG, HOLD_MS, readGesture } from "./gestures";
import { aim } from "./Loupe";
import { pause } from "./playback";
import { isZoomed, panBy } from "./zoom";

interface Press {
  readonly id: number;
  readonly start: Spot;
  readonly client: Spot;
  readonly button: number;
  readonly isTouch: boolean;
  /** What moving does besides clicking. */
  readonly drag: "none" | "pan" | "stroke";
  readonly timers: readonly number[];
  last: Spot; // on the page
  moved: number;
}

const LOUPE_MS = 150; // a shorter touch is a tap
const [PRIMARY, MIDDLE, SECONDARY] = [0, 1, 2];

/** Clicks, boxes, strokes and long presses on the frame. `draft` is the box that is being drawn. */
export function usePointer(surface: RefObject<HTMLElement | null>) {
  const press = useRef<Press | null>(null);
  const pointer = useRef<Spot | null>(null); // of the mouse over the frame
  const [draft, setDraft] = useState<Box | null>(null);

  // What is under the pointer changes with the masks, too.
  useEffect(
    () =>
      useStore.subscribe((state, before) => {
        const isChanged = state.masks !== before.masks || state.frame !== before.frame;
        if (isChanged && pointer.current) hover(pointer.current);
      }),
    [],
  );

  const spotOf = (event: PointerEvent) =>
    toShares({ x: event.clientX, y: event.clientY }, surface.current!.getBoundingClientRect());

  const release = (): Press | null => {
    const { current } = press;
    press.current = null;
    setDraft(null);
    aim(null);
    current?.timers.forEach(clearTimeout);
    return current;
  };

  const finish = (end: Spot, held: boolean) => {
    const current = release();
    if (!current) return;
    if (current.drag === "stroke") return endStroke();
    const action = readGesture({ ...current, end, held, tool: getState().tool });
    if (action?.kind === "point" && !chooseAt(action.spot))
      editing.addPoint({ ...action.spot, positive: action.positive });
    if (action?.kind === "box") editing.setBox(action.box);
  };

  const cancel = () => {
    if (release()?.drag === "stroke") cancelStroke();
  };

  const begin = (event: PointerEvent<HTMLElement>) => {
    event.currentTarget.setPointerCapture(event.pointerId);
    const start = spotOf(event);
    const { tool } = getState();
    const isTouch = event.pointerType === "touch";
    const isBrush = (tool === "paint" || tool === "wipe") && event.button !== MIDDLE;
    const isPan = event.button === MIDDLE || (event.button === PRIMARY && tool !== "box" && !isTouch && isZoomed());
    const timers = isTouch
      ? [window.setTimeout(() => aim(start), LOUPE_MS)].concat(
          isBrush ? [] : window.setTimeout(() => finish(start, true), HOLD_MS),
        )
      : [];
    const client = { x: event.clientX, y: event.clientY };
    const drag = isBrush ? "stroke" : isPan ? "pan" : "none";
    press.current = {
      id: event.pointerId,
      start,
      client,
      button: event.button,
      isTouch,
      drag,
      timers,
      last: client,
      moved: 0,
    };
    if (isBrush) beginStroke(start, (tool === "paint") !== (event.button === SECONDARY));
  };

  return {
    draft,
    cancel,
    handlers: {
      onPointerDown: (event: PointerEvent<HTMLElement>) => {
        endPreview();
        const state = getState();
        if (state.playing) return pause(); // moving objects are hard to click
        const isBrush = state.tool === "paint" || state.tool === "wipe"; // paints on masks, which are not loaded yet
        if (isBrush && state.phase === "opening") return notify("info", "Painting begins when it is open.");
        if (state.phase !== "ready" && state.phase !== "opening") return;
        if (press.current) return cancel(); // a second finger
        setState({ following: false }); // tracking must not change the frame under the pointer
        begin(event);
      },
      onPointerMove: (event: PointerEvent<HTMLElement>) => {
        const { current } = press;
        const spot = spotOf(event);
        if (!current) {
          if (event.pointerType !== "mouse") return;
          pointer.current = spot;
          hover(spot);
          if (isChoosing()) return useEverything.setState({ highlighted: candidateAt(spot)?.id ?? null });
          useBrush.setState({ cursor: spot });
          return hoverPreview(spot);
        }
        if (current.id !== event.pointerId) return;
        const distance = Math.hypot(event.clientX - current.client.x, event.clientY - current.client.y);
        current.moved = Math.max(current.moved, distance);
        if (current.moved >= DRAG) {
          current.timers.forEach(clearTimeout);
          if (current.isTouch) aim(spot);
          if (current.drag === "pan") panBy(event.clientX - current.last.x, event.clientY - current.last.y);
          current.last = { x: event.clientX, y: event.clientY };
        }
        if (event.pointerType === "mouse") useBrush.setState({ cursor: spot });
        if (current.drag === "stroke") continueStroke(spot);
        else if (getState().tool === "box" && current.button === PRIMARY) setDraft(boxBetween(current.start, spot));
      },
      onPointerUp: (event: PointerEvent<HTMLElement>) => {
        if (press.current?.id === event.pointerId) finish(spotOf(event), false);
      },
      onPointerCancel: cancel,
      // The focused frame has shortcuts of its own. A click must not focus it, or the page's shortcuts would stop working.
      onMouseDown: (event: { preventDefault(): void }) => {
        event.preventDefault();
        if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
      },
      onPointerLeave: () => {
        pointer.current = null;
        hoverPreview(null);
        useBrush.setState({ cursor: null });
        setState({ hovered: null });
        if (isChoosing()) useEverything.setState({ highlighted: null });
      },
      onContextMenu: (event: { preventDefault(): void }) => event.preventDefault(),
    },
  };
}

/** Marks the object under the pointer, the smallest where several overlap. */
function hover({ x, y }: Spot): void {
  const { masks, frame, hovered, playing, scene } = getState();
  let best: { id: number; area: number } | null = null;
  const entries = masksAt(masks, frame);
  for (const object of playing ? [] : scene.objects) {
    const entry = entries.get(object.id);
    if (!entry) continue;
    const mask = shownMask(object, entry);
    const isInside = maskHas(mask, Math.floor(x * mask.width), Math.floor(y * mask.height));
    if (isInside && (!best || mask.area < best.area)) best = { id: object.id, area: mask.area };
  }
  if ((best?.id ?? null) !== hovered) setState({ hovered: best?.id ?? null });
}
