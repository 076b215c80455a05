import { useMemo } from "react";
import { goTo } from "../player/playback";
import { percent } from "../precision/candidates";
import { getState, notify, setState, useStore } from "../state/store";
import { weakestByFrame, weakestFrames, type Weakest } from "./confidence";

const WEAK = 0.6; // below, a frame is marked
const LEAST = 0.5; // what the lane shows at its bottom: confidence is rarely less

/** How sure the model is of each tracked frame: the least sure object counts. */
export function ConfidenceLane({ numFrames }: { numFrames: number }) {
  const masks = useStore((state) => state.masks);
  const found = useMemo(() => weakestByFrame(masks, numFrames), [masks, numFrames]);
  const [weakest] = useMemo(() => weakestFrames(found), [found]);
  if (weakest === undefined) return null;
  return (
    <div className="lane confidence">
      <button type="button" className="lane-name" title="Go to the weakest frame (W)" onClick={goToWeakest}>
        Confidence
      </button>
      <svg
        className="lane-track"
        role="img"
        aria-label={describe(found)}
        viewBox={`0 0 ${numFrames} 1`}
        preserveAspectRatio="none"
      >
        {found.map((mask, frame) => {
          if (!mask) return null;
          const height = Math.max(0.1, (mask.confidence - LEAST) / (1 - LEAST));
          const kind = mask.confidence < WEAK ? "weak" : frame === weakest ? "weakest" : "";
          return <rect key={frame} className={kind} x={frame} y={1 - height} width={1} height={height} />;
        })}
      </svg>
    </div>
  );
}

let last: number | null = null; // the frame of the last jump

/** Goes to the weakest frame; from there to the next weakest, and so on. */
export function goToWeakest(): void {
  const { masks, session, frame } = getState();
  if (!session) return;
  const found = weakestByFrame(masks, session.numFrames);
  const frames = weakestFrames(found);
  if (frames.length === 0) return notify("info", "Nothing is tracked yet: there is no confidence to compare.");
  const place = frame === last ? frames.indexOf(frame) : -1;
  const next = frames[(place + 1) % frames.length]!;
  last = next;
  goTo(next);
  const { object, confidence } = found[next]!;
  setState({ active: object, announcement: `Frame ${next + 1}, confidence ${percent(confidence)}.` });
}

function describe(found: readonly (Weakest | null)[]): string {
  const frame = weakestFrames(found)[0]!;
  return `Confidence: lowest on frame ${frame + 1}, ${percent(found[frame]!.confidence)}`;
}
