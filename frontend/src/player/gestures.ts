import { boxBetween, type Spot } from "../scene/geometry";
import type { Box } from "../scene/scene";
import type { Tool } from "../state/store";

export interface Gesture {
  readonly start: Spot;
  readonly end: Spot;
  /** The pointer's movement in screen pixels. */
  readonly moved: number;
  readonly button: number;
  /** Whether it was a long press. */
  readonly held: boolean;
  /** A finger aims while it moves, and clicks where it is lifted. */
  readonly isTouch?: boolean;
  readonly tool: Tool;
}

export type Action = { kind: "point"; spot: Spot; positive: boolean } | { kind: "box"; box: Box };

export const HOLD_MS = 500;
export const DRAG = 8; // pixels; less is a click
const SECONDARY = 2;

/** The action of a pointer press on the frame; null for none. */
export function readGesture({ start, end, moved, button, held, isTouch, tool }: Gesture): Action | null {
  if (button !== 0 && button !== SECONDARY) return null;
  if (tool === "box" && button === 0 && !held) {
    return moved >= DRAG ? { kind: "box", box: boxBetween(start, end) } : null;
  }
  const isAimed = moved >= DRAG && !held;
  if (isAimed && !isTouch) return null; // a swipe
  const isOpposite = button === SECONDARY || held;
  return { kind: "point", spot: isAimed ? end : start, positive: (tool === "exclude") === isOpposite };
}
