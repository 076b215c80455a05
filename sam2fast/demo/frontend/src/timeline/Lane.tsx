import { useMemo } from "react";
import { goTo } from "../player/playback";
import { promptedFrames, type SceneObject } from "../state/scene";
import { setState, useStore } from "../state/store";
import { findSpans, type Span } from "./spans";

/** The frames on which an object is seen, hidden, or was clicked. */
export function Lane({ object, numFrames }: { object: SceneObject; numFrames: number }) {
  const maskStore = useStore((state) => state.maskStore);
  const masksVersion = useStore((state) => state.masksVersion);
  const isActive = useStore((state) => state.active === object.id);
  const spans = useMemo(
    () => findSpans(maskStore.visibility(object.id, numFrames)),
    // The masks change in place; their version counts the changes.
    // eslint-disable-next-line react-hooks/exhaustive-deps
    [maskStore, masksVersion, object.id, numFrames],
  );
  const position = (frame: number) => `${(100 * frame) / numFrames}%`;

  return (
    <div className={`lane ${isActive ? "active" : ""}`} style={{ "--colour": object.colour } as React.CSSProperties}>
      <span className="lane-name" title={object.name}>
        {object.name}
      </span>
      <div className="lane-track" role="group" aria-label={`${object.name}: ${describe(spans)}`}>
        {spans.map(({ start, end, state }) => (
          <div
            key={start}
            className={`span ${state}`}
            style={{ left: position(start), width: position(end - start) }}
          />
        ))}
        {promptedFrames(object).map((frame) => (
          <button
            key={frame}
            type="button"
            className="prompt-mark"
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

function describe(spans: readonly Span[]): string {
  const seen = spans.filter(({ state }) => state === "seen").map(({ start, end }) => `${start + 1} to ${end}`);
  return seen.length > 0 ? `seen on frames ${seen.join(", ")}` : "not tracked yet";
}
