import { useRef } from "react";
import type { SceneObject } from "../scene/scene";
import { labelObject } from "../state/editing";
import { setState, useStore } from "../state/store";
import { IconButton } from "../ui/Icon";

const NUM_KEYS = 9; // Shift 1 to Shift 9

/** The class of an object: typed, or one of the list. */
export function LabelField({ object, locked }: { object: SceneObject; locked: boolean }) {
  const classes = useStore((state) => state.classes);
  const before = useRef<EventTarget | null>(null); // had the focus
  const save = (label: string) => {
    if (label.trim() !== (object.label ?? "")) labelObject(object.id, label);
  };
  return (
    <div className="label">
      <input
        key={object.label ?? ""} // undo changes it, too
        className="label-field"
        aria-label={`Class of ${object.name}`}
        placeholder="Class, such as dog"
        list="labels"
        defaultValue={object.label ?? ""}
        maxLength={60}
        disabled={locked}
        onFocus={(event) => (before.current = event.relatedTarget)}
        onBlur={(event) => save(event.target.value)}
        onKeyDown={(event) => {
          if (event.key !== "Enter") return;
          event.currentTarget.blur();
          if (before.current instanceof HTMLElement) before.current.focus();
        }}
      />
      <datalist id="labels">
        {classes.map(({ name }) => (
          <option key={name} value={name} />
        ))}
      </datalist>
      <IconButton icon="tags" label="Edit the classes" onClick={() => setState({ dialog: "classes" })} />
      {classes.length > 0 && (
        <div className="label-choice" role="group" aria-label={`Classes for ${object.name}`}>
          {classes.map(({ name, colour }, place) => (
            <button
              key={name}
              type="button"
              aria-pressed={name === object.label}
              disabled={locked}
              title={place < NUM_KEYS ? `${name} (Shift ${place + 1})` : name}
              style={{ "--colour": colour } as React.CSSProperties}
              onClick={() => labelObject(object.id, name === object.label ? "" : name)}
            >
              <span>{name}</span>
              {place < NUM_KEYS && <kbd aria-hidden="true">{place + 1}</kbd>}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}
