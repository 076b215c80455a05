import { useEffect, useMemo, useRef, useState } from "react";
import { useStore } from "../state/store";
import { cancelTrimming, upload, type Trimming } from "./uploading";

const SHORTEST = 0.5; // seconds
const STEP = 0.1;

/** Chooses the part of a long video that is uploaded: a range with two handles, and the frame at the moved one. */
export function TrimControl({ file, seconds }: Trimming) {
  const maxSeconds = useStore((state) => state.limits!.maxSeconds);
  const [[start, end], setPart] = useState<readonly [number, number]>([0, Math.min(seconds, maxSeconds)]);
  const preview = useRef<HTMLVideoElement>(null);
  const url = useMemo(() => URL.createObjectURL(file), [file]);
  useEffect(() => () => URL.revokeObjectURL(url), [url]);

  const show = (time: number) => {
    if (preview.current) preview.current.currentTime = time;
  };
  // The other handle follows where the part would be too short or too long.
  const moveStart = (value: number) => {
    const time = Math.min(value, seconds - SHORTEST);
    setPart([time, Math.min(Math.max(end, time + SHORTEST), time + maxSeconds)]);
    show(time);
  };
  const moveEnd = (value: number) => {
    const time = Math.max(value, SHORTEST);
    setPart([Math.max(Math.min(start, time - SHORTEST), time - maxSeconds), time]);
    show(time);
  };
  const scale = { min: 0, max: seconds, step: STEP };

  return (
    <div className="trim">
      <p>
        Which part of “{file.name}”? It has {seconds.toFixed(1)} seconds; at most {maxSeconds} can be used: each frame
        of a session takes memory and time.
      </p>
      <video ref={preview} src={url} muted playsInline preload="auto" tabIndex={-1} />
      <div className="trim-range">
        <div className="trim-part" style={{ left: share(start, seconds), right: share(seconds - end, seconds) }} />
        <input
          type="range"
          {...scale}
          aria-label="Start"
          aria-valuetext={`${start.toFixed(1)} seconds`}
          value={start}
          onChange={({ target }) => moveStart(target.valueAsNumber)}
        />
        <input
          type="range"
          {...scale}
          aria-label="End"
          aria-valuetext={`${end.toFixed(1)} seconds`}
          value={end}
          onChange={({ target }) => moveEnd(target.valueAsNumber)}
        />
      </div>
      <p className="trim-times">
        {start.toFixed(1)} s to {end.toFixed(1)} s: {(end - start).toFixed(1)} seconds
      </p>
      <div className="answers">
        <button type="button" onClick={cancelTrimming}>
          Cancel
        </button>
        <button type="button" className="primary" onClick={() => void upload(file, { start, seconds: end - start })}>
          Use this part
        </button>
      </div>
    </div>
  );
}

function share(part: number, whole: number): string {
  return `${(100 * part) / whole}%`;
}
