import { boxBetween, type Spot } from "./geometry";
import type { Box } from "../state/scene";

export type Tool = "include" | "exclude" | "box";

export interface Gesture {
  readonly start: Spot;
  readonly end: Spot;
  /** How far the pointer went, in pixels of the screen. */
  readonly moved: number;
  readonly button: number;
  /** A finger rested long enough. */
  readonly held: boolean;
  readonly tool: Tool;
}

export type Action = { kind: "point"; spot: Spot; positive: boolean } | { kind: "box"; box: Box };

export const HOLD_MS = 500;
const DRAG = 8; // less is a click by an unsteady hand
const SECONDARY = 2;

/** What a press of the pointer on the picture asks for; null for nothing. */
export function readGesture({ start, end, moved, button, held, tool }: Gesture): Action | null {
  if (button !== 0 && button !== SECONDARY) return null;
  if (tool === "box" && button === 0 && !held) {
    return moved >= DRAG ? { kind: "box", box: boxBetween(start, end) } : null;
  }
  if (moved >= DRAG && !held) return null; // a swipe
  const isOpposite = button === SECONDARY || held;
  return { kind: "point", spot: start, positive: (tool === "exclude") === isOpposite };
}
