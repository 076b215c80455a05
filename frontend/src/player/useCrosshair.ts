import { useState, type KeyboardEvent } from "react";
import { beginStroke, endStroke } from "../precision/brush";
import { chooseAt } from "../precision/everything";
import { boxBetween, type Spot } from "../scene/geometry";
import * as editing from "../state/editing";
import { getState, setState, useStore } from "../state/store";

const STEP = 0.02; // share of the frame
const MOVES: Record<string, Spot> = {
  ArrowLeft: { x: -STEP, y: 0 },
  ArrowRight: { x: STEP, y: 0 },
  ArrowUp: { x: 0, y: -STEP },
  ArrowDown: { x: 0, y: STEP },
};

/**
 * Clicks by keyboard: Shift and arrows move a crosshair over the focused frame, Enter adds a point or paints there. With
 * the box tool, Enter sets one corner and then the opposite one.
 */
export function useCrosshair() {
  const [spot, setSpot] = useState<Spot | null>(null);
  const [corner, setCorner] = useState<Spot | null>(null);
  const isBox = useStore((state) => state.tool === "box");
  const inside = (share: number) => Math.min(0.99, Math.max(0.01, share));

  const onKeyDown = (event: KeyboardEvent) => {
    if (event.target !== event.currentTarget) return;
    const move = MOVES[event.key];
    if (move && event.shiftKey) {
      const from = spot ?? { x: 0.5, y: 0.5 };
      setSpot({ x: inside(from.x + move.x), y: inside(from.y + move.y) });
    } else if (event.key === "Enter") {
      const at = spot ?? { x: 0.5, y: 0.5 };
      setSpot(at);
      setState({ playing: false, following: false }); // the frame stays
      const { tool } = getState();
      if (tool === "paint" || tool === "wipe") {
        beginStroke(at, (tool === "paint") !== event.shiftKey);
        endStroke();
      } else if (chooseAt(at)) {
        setCorner(null);
      } else if (tool === "box") {
        if (corner && corner !== at) editing.setBox(boxBetween(corner, at));
        setCorner(corner ? null : at);
      } else {
        editing.addPoint({ ...at, positive: !event.shiftKey });
      }
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  };
  const onBlur = () => {
    setSpot(null);
    setCorner(null);
  };
  const draft = isBox && corner && spot ? boxBetween(corner, spot) : null;
  return { spot, draft, onKeyDown, onBlur };
}
