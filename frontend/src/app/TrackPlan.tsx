import { EXTENTS, type Extent } from "../state/plan";
import { setState, useStore } from "../state/store";

const NAMES: Record<Extent, string> = {
  all: "The whole video",
  forward: "From this frame forwards",
  backward: "From this frame backwards",
  range: "A range of frames",
};

/** Selects what tracking covers. */
export function TrackPlan() {
  const plan = useStore((state) => state.plan);
  const numFrames = useStore((state) => state.session?.numFrames ?? 1);
  const changePlan = (change: Partial<typeof plan>) => setState({ plan: { ...plan, ...change } });

  return (
    <div className="plan">
      <select
        aria-label="Part to track"
        value={plan.extent}
        onChange={(event) => {
          const extent = event.target.value as Extent;
          changePlan({ extent, ...(plan.last === 0 && { last: numFrames - 1 }) });
        }}
      >
        {EXTENTS.map((extent) => (
          <option key={extent} value={extent}>
            {NAMES[extent]}
          </option>
        ))}
      </select>
      {plan.extent === "range" && (
        <div className="range">
          {(["first", "last"] as const).map((end) => (
            <label key={end}>
              {end === "first" ? "from" : "to"}
              <input
                type="number"
                min={1}
                max={numFrames}
                value={plan[end] + 1}
                onChange={(event) => {
                  const frame = Math.round(event.target.valueAsNumber) - 1;
                  if (frame >= 0 && frame < numFrames) changePlan({ [end]: frame });
                }}
              />
            </label>
          ))}
        </div>
      )}
      <label className="check">
        <input
          type="checkbox"
          checked={plan.onlyChanged}
          onChange={(event) => changePlan({ onlyChanged: event.target.checked })}
        />
        Only changed objects
      </label>
    </div>
  );
}
