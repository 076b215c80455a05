import { lastRate } from "../models/models";
import { counted } from "../scene/counted";
import { firstPromptedFrame } from "../scene/scene";
import { makeTrack } from "../state/plan";
import { isTracking, setState, useStore, type Tracking } from "../state/store";
import { isSynchronised } from "../state/synchronise";
import { Icon } from "../ui/Icon";
import { toggleTracking } from "./shortcuts";
import { TrackPlan } from "./TrackPlan";

/** Buttons to track, cancel and download, with the progress. */
export function Actions() {
  const tracking = useStore((state) => state.tracking);
  const ready = useStore((state) => state.phase === "ready" && state.connected);
  const hasPrompts = useStore((state) => firstPromptedFrame(state.scene) !== null);
  const running = isTracking(tracking);
  const isWaiting = useStore((state) => isTracking(state.tracking) && !state.pending && !isSynchronised());

  return (
    <div className="actions">
      {"done" in tracking && (
        <div className="progress">
          <progress max={tracking.total} value={tracking.done} aria-label="Tracking" />
          <span>
            {`${tracking.done} of ${counted(tracking.total, "frame")} `}
            {tracking.framesPerSecond !== null && <small>{describeRate(tracking)}</small>}
          </span>
        </div>
      )}
      {isWaiting && (
        <p className="hint" role="status">
          Your clicks are kept. They are sent when tracking ends.
        </p>
      )}
      {!running && (
        <p className="hint">
          {hint(tracking, hasPrompts)} {hasPrompts && <ExpectedTime />}
        </p>
      )}
      {!running && hasPrompts && <TrackPlan />}
      <div className="row">
        <button
          type="button"
          className={running ? "danger track" : "primary track"}
          disabled={!ready || !hasPrompts || tracking.state === "cancelling"}
          onClick={toggleTracking}
          title={running ? "Cancel (K)" : "Track (K)"}
        >
          {label(tracking)}
        </button>
        <button
          type="button"
          disabled={!ready || !hasPrompts || running}
          onClick={() => setState({ dialog: "download" })}
          title="Download (D)"
        >
          <Icon name="download" />
          Download
        </button>
      </div>
    </div>
  );
}

/** How long tracking takes at the rate of the model's last track; nothing before its first. */
function ExpectedTime() {
  const total = useStore(({ plan, scene, masks, frame, session }) =>
    session ? (makeTrack(plan, scene, masks, frame, session.numFrames)?.total ?? 0) : 0,
  );
  const rate = lastRate(useStore((state) => state.limits?.model));
  if (rate === null || total === 0) return null;
  return (
    <span className="expected">
      {counted(total, "frame")}: about {inWords(total / rate)}
    </span>
  );
}

function describeRate({ done, total, framesPerSecond }: Extract<Tracking, { done: number }>): string {
  const rate = framesPerSecond ?? 1;
  return `${rate.toFixed(1)} frames/s · ${inWords((total - done) / rate)} left`;
}

function inWords(duration: number): string {
  const seconds = Math.ceil(duration);
  return seconds >= 60 ? `${Math.floor(seconds / 60)} min ${seconds % 60} s` : `${seconds} s`;
}

function label({ state }: Tracking): string {
  if (state === "running") return "Cancel";
  if (state === "cancelling") return "Cancelling …";
  return state === "never" ? "Track" : "Track again";
}

function hint({ state }: Tracking, hasPrompts: boolean): string {
  if (!hasPrompts) return "Click an object in the video to begin.";
  if (state === "never") return "Refine the mask, add another object, or track.";
  if (state === "stale") return "The clicks have changed: track hatched frames again.";
  if (state === "partial") return "A part is tracked; other frames have no masks yet.";
  if (state === "cancelled") return "Cancelled. Finished frames keep their masks.";
  if (state === "failed") return "Tracking stopped before the end.";
  return "Where a mask is wrong, click there and track again.";
}
