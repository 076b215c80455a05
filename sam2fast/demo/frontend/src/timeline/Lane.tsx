import { useMemo } from "react";
import { goTo } from "../player/playback";
import { promptedFrames, type SceneObject } from "../state/scene";
import { setState, useStore } from "../state/store";
import { findSpans, type Span } from "./spans";

/** Where an object is seen, where it is known to be hidden, and where it was clicked. */
export function Lane({ object, numFrames }: { object: SceneObject; numFrames: number }) {
  const book = useStore((state) => state.book);
  const masksVersion = useStore((state) => state.masksVersion);
  const isActive = useStore((state) => state.active === object.id);
  const spans = useMemo(
    () => findSpans(book.visibility(object.id, numFrames)),
    // The book changes in place; its version tells when.
    // eslint-disable-next-line react-hooks/exhaustive-deps
    [book, masksVersion, object.id, numFrames],
  );
  const place = (frame: number) => `${(100 * frame) / numFrames}%`;

  return (
    <div className={`lane ${isActive ? "active" : ""}`} style={{ "--colour": object.colour } as React.CSSProperties}>
      <span className="lane-name" title={object.name}>
        {object.name}
      </span>
      <div className="lane-track" role="group" aria-label={`${object.name}: ${describe(spans)}`}>
        {spans.map(({ start, end, state }) => (
          <div key={start} className={`span ${state}`} style={{ left: place(start), width: place(end - start) }} />
        ))}
        {promptedFrames(object).map((frame) => (
          <button
            key={frame}
            type="button"
            className="prompt-mark"
            style={{ left: place(frame + 0.5) }}
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
