import { useEffect, useRef, type RefObject } from "react";
import { toShares, type Spot } from "../scene/geometry";
import { panBy, zoomBy } from "./zoom";

const WHEEL_SPEED = 1 / 400; // of the logarithm of the scale, per pixel
const PINCH_SPEED = 4; // trackpads send pinches as the wheel with Ctrl, in smaller steps
const LINE = 16; // pixels, where the wheel counts lines

/**
 * Zooms by the wheel, and by two fingers, which also move the frame.
 *
 * @param onPinch ends what the first finger has begun
 */
export function useZoomGestures(
  room: RefObject<HTMLElement | null>,
  surface: RefObject<HTMLElement | null>,
  onPinch: () => void,
): void {
  const begin = useRef(onPinch);
  useEffect(() => {
    begin.current = onPinch;
  });
  useEffect(() => {
    const area = room.current!;
    const spotOf = (at: Spot) => {
      const rect = surface.current?.getBoundingClientRect();
      return rect && toShares(at, rect);
    };
    // React's listeners are passive: they could not keep the page from zooming.
    const onWheel = (event: WheelEvent) => {
      event.preventDefault();
      if (event.shiftKey) return panBy(-(event.deltaX || event.deltaY), 0);
      const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? LINE : 1);
      const speed = event.ctrlKey ? PINCH_SPEED * WHEEL_SPEED : WHEEL_SPEED;
      zoomBy(Math.exp(-pixels * speed), spotOf({ x: event.clientX, y: event.clientY }));
    };
    let fingers: { middle: Spot; distance: number } | null = null;
    const onTouch = (event: TouchEvent) => {
      const [one, other] = event.touches;
      const before = fingers;
      fingers = one && other ? measure(one, other) : null;
      if (fingers) begin.current(); // the second finger may be on a mark, or beside the frame
      if (!before || !fingers) return;
      event.preventDefault();
      panBy(fingers.middle.x - before.middle.x, fingers.middle.y - before.middle.y);
      zoomBy(fingers.distance / before.distance, spotOf(fingers.middle));
    };
    const touches = ["touchstart", "touchmove", "touchend", "touchcancel"] as const;
    area.addEventListener("wheel", onWheel, { passive: false });
    for (const name of touches) area.addEventListener(name, onTouch, { passive: false });
    return () => {
      area.removeEventListener("wheel", onWheel);
      for (const name of touches) area.removeEventListener(name, onTouch);
    };
  }, [room, surface]);
}

function measure(one: Touch, other: Touch): { middle: Spot; distance: number } {
  return {
    middle: { x: (one.clientX + other.clientX) / 2, y: (one.clientY + other.clientY) / 2 },
    distance: Math.max(1, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY)),
  };
}
