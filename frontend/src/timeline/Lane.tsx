import { useEffect, useMemo, useRef } from "react";
import { promptKey, visibility } from "../masks/masks";
import { goTo } from "../player/playback";
import { promptedFrames, type Prompt, type SceneObject } from "../scene/scene";
import { setState, useStore } from "../state/store";
import { findSpans, type Span } from "./spans";

/** The frames on which an object is seen, hidden, or was clicked. */
export function Lane({ object, numFrames }: { object: SceneObject; numFrames: number }) {
  const masks = useStore((state) => state.masks);
  const isActive = useStore((state) => state.active === object.id);
  const spans = useMemo(
    () => findSpans(visibility(masks, object.id, numFrames, promptKey(object.prompts))),
    [masks, object, numFrames],
  );
  const lane = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (isActive) lane.current?.scrollIntoView({ block: "nearest" });
  }, [isActive]);
  const position = (frame: number) => `${(100 * frame) / numFrames}%`;

  return (
    <div
      ref={lane}
      className={`lane ${isActive ? "active" : ""}`}
      style={{ "--colour": object.colour } as React.CSSProperties}
    >
      <span className="lane-name" title={object.name}>
        {object.name}
      </span>
      <div className="lane-track" role="group" aria-label={`${object.name}: ${describe(spans)}`}>
        {spans.map(({ start, end, state, isStale }) => (
          <div
            key={start}
            className={`span ${state} ${isStale ? "stale" : ""}`}
            title={isStale ? "Tracked before the last change" : undefined}
            style={{ left: position(start), width: position(end - start) }}
          />
        ))}
        {promptedFrames(object).map((frame) => (
          <button
            key={frame}
            type="button"
            className={`prompt-mark ${kindOf(object.prompts[frame]!)}`}
            style={{ left: position(frame + 0.5) }}
            aria-label={`${object.name} was clicked on frame ${frame + 1}: go there`}
            title={`Clicked on frame ${frame + 1}`}
            onClick={() => {
              setState({ active: object.id });
              goTo(frame);
            }}
          />
        ))}
      </div>
    </div>
  );
}

/** Of the mark: excluded points only change a mask, a box or an included point begins one. */
function kindOf({ points, box }: Prompt): "box" | "positive" | "negative" {
  if (box) return "box";
  return points.length > 0 && points.every(({ positive }) => !positive) ? "negative" : "positive";
}

function describe(spans: readonly Span[]): string {
  const list = (chosen: readonly Span[]) => chosen.map(({ start, end }) => `${start + 1} to ${end}`).join(", ");
  const seen = spans.filter(({ state, isStale }) => state === "seen" && !isStale);
  const stale = spans.filter(({ isStale }) => isStale);
  const parts = [];
  if (seen.length > 0) parts.push(`seen on frames ${list(seen)}`);
  if (stale.length > 0) parts.push(`tracked before the last change on frames ${list(stale)}`);
  return parts.join("; ") || "not tracked yet";
}
