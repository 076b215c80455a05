import { setState, useStore, type Tool } from "../state/store";
import { Icon, type IconName } from "../ui/Icon";

const TOOLS: readonly { tool: Tool; label: string; icon: IconName; shortcut: string }[] = [
  { tool: "include", label: "Include", icon: "plus", shortcut: "I" },
  { tool: "exclude", label: "Exclude", icon: "minus", shortcut: "E" },
  { tool: "box", label: "Box", icon: "box", shortcut: "B" },
];

/** Selects the meaning of a click in the video. */
export function ToolPicker() {
  const current = useStore((state) => state.tool);
  return (
    <div className="tools" role="group" aria-label="Click tool">
      {TOOLS.map(({ tool, label, icon, shortcut }) => (
        <button
          key={tool}
          type="button"
          aria-pressed={tool === current}
          title={`${label} (${shortcut})`}
          onClick={() => setState({ tool })}
        >
          <Icon name={icon} />
          {label}
        </button>
      ))}
    </div>
  );
}
