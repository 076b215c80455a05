import { useRef, type KeyboardEvent, type PointerEvent } from "react";
import { goTo, step } from "../player/playback";
import { useStore } from "../state/store";
import { ConfidenceLane } from "./ConfidenceLane";
import { Filmstrip } from "./Filmstrip";
import { Lane } from "./Lane";

const MAX_TICKS = 8;

/** One lane per object under a ruler; a click selects the frame. */
export function Timeline() {
  const session = useStore((state) => state.session);
  const objects = useStore((state) => state.scene.objects);
  const frame = useStore((state) => state.frame);
  const track = useRef<HTMLDivElement>(null);
  const numFrames = session?.numFrames ?? 1;

  const scrub = (event: PointerEvent) => {
    if (!(event.buttons & 1) || !session) return;
    const { left, width } = track.current!.getBoundingClientRect();
    goTo(Math.floor(((event.clientX - left) / width) * numFrames));
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "PageUp") step(10);
    else if (event.key === "PageDown") step(-10);
    else return; // arrows, Home and End are shortcuts of the page
    event.preventDefault();
  };

  return (
    <section className="timeline" aria-label="Timeline">
      <div
        className="lanes"
        onPointerDown={(event) => {
          // Marks are buttons.
          if ((event.target as HTMLElement).closest("button")) return;
          event.currentTarget.setPointerCapture(event.pointerId);
          scrub(event);
        }}
        onPointerMove={scrub}
      >
        <div className="lane ruler">
          <span className="lane-name">
            Frame <output>{frame + 1}</output>
          </span>
          <Filmstrip />
          <div
            ref={track}
            className="lane-track"
            role="slider"
            tabIndex={0}
            aria-label="Frame"
            aria-valuemin={1}
            aria-valuemax={numFrames}
            aria-valuenow={frame + 1}
            aria-valuetext={`frame ${frame + 1} of ${numFrames}`}
            aria-disabled={!session}
            onKeyDown={onKeyDown}
          >
            {session && <div className="strip-playhead" style={{ left: `${(100 * (frame + 0.5)) / numFrames}%` }} />}
            {ticks(numFrames).map((tick) => (
              <span key={tick} className="tick" style={{ left: `${(100 * (tick + 0.5)) / numFrames}%` }}>
                {tick + 1}
              </span>
            ))}
          </div>
        </div>
        {objects.map((object) => (
          <Lane key={object.id} object={object} numFrames={numFrames} />
        ))}
        {session && <ConfidenceLane numFrames={numFrames} />}
        <div className="playhead-track" aria-hidden="true">
          {session && <div className="playhead" style={{ left: `${(100 * (frame + 0.5)) / numFrames}%` }} />}
        </div>
      </div>
    </section>
  );
}

/** The frames with a number on the ruler. */
function ticks(numFrames: number): number[] {
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((size) => numFrames / size <= MAX_TICKS) ?? numFrames;
  const found = [0];
  for (let frame = step - 1; frame < numFrames; frame += step) if (frame > 0) found.push(frame);
  return found.filter((tick) => tick === 0 || tick >= step / 2);
}
