import { useEffect, useState } from "react";
import { findObject, promptAt, type Point } from "../scene/scene";
import { useStore, type State } from "../state/store";

interface Wave extends Point {
  readonly id: number;
  readonly colour: string;
}

/** A wave from each new point. */
export function Ripple() {
  const [wave, setWave] = useState<Wave | null>(null);
  useEffect(
    () =>
      useStore.subscribe((state, before) => {
        const added = state.scene === before.scene ? null : newPoint(state, before);
        if (added) setWave((last) => ({ ...added, id: (last?.id ?? 0) + 1 }));
      }),
    [],
  );
  if (!wave) return null;
  const { id, x, y, colour } = wave;
  const style = { left: `${100 * x}%`, top: `${100 * y}%`, "--colour": colour } as React.CSSProperties;
  return <span key={id} className="ripple" style={style} />;
}

/** The point that was added to the active object on the shown frame. */
function newPoint(state: State, before: State): Omit<Wave, "id"> | null {
  const object = findObject(state.scene, state.active);
  if (!object || state.frame !== before.frame || state.session !== before.session) return null;
  const earlier = findObject(before.scene, object.id);
  const points = promptAt(object, state.frame).points;
  const count = earlier ? promptAt(earlier, state.frame).points.length : 0;
  return points.length === count + 1 ? { ...points.at(-1)!, colour: object.colour } : null;
}
