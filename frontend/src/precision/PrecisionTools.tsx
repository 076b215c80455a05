import { setState, useStore, type Tool } from "../state/store";
import { Icon, type IconName } from "../ui/Icon";
import { MAX_SIZE, MIN_SIZE, useBrush } from "./brush";
import { togglePreview, usePreview } from "./preview";

const BRUSHES: readonly { tool: Tool; label: string; icon: IconName; shortcut: string }[] = [
  { tool: "paint", label: "Paint", icon: "brush", shortcut: "P" },
  { tool: "wipe", label: "Wipe", icon: "eraser", shortcut: "R" },
];

/** The brush, and whether a click is previewed. */
export function PrecisionTools() {
  const current = useStore((state) => state.tool);
  const isOn = usePreview((state) => state.isOn);
  const size = useBrush((state) => state.size);
  return (
    <>
      <div className="tools" role="group" aria-label="Brush and preview">
        {BRUSHES.map(({ tool, label, icon, shortcut }) => (
          <button
            key={tool}
            type="button"
            aria-pressed={tool === current}
            title={`${label} (${shortcut})`}
            onClick={() => setState({ tool: tool === current ? "include" : tool })}
          >
            <Icon name={icon} />
            {label}
          </button>
        ))}
        <button
          type="button"
          aria-pressed={isOn}
          title="Show the mask that a click at the pointer would find (V)"
          onClick={togglePreview}
        >
          <Icon name="eye" />
          Preview
        </button>
      </div>
      {(current === "paint" || current === "wipe") && (
        <label className="brush-size">
          Size
          <input
            type="range"
            min={MIN_SIZE}
            max={MAX_SIZE}
            step={MIN_SIZE}
            value={size}
            onChange={(event) => useBrush.setState({ size: event.target.valueAsNumber })}
          />
        </label>
      )}
    </>
  );
}
