import { useRef } from "react";
import type { SceneObject } from "../scene/scene";
import { labelObject } from "../state/editing";
import { useStore } from "../state/store";

/** The class of an object, for exports. It proposes those of other objects, also of other photographs. */
export function LabelField({ object, locked }: { object: SceneObject; locked: boolean }) {
  const objects = useStore((state) => state.scene.objects);
  const others = useStore((state) => state.labels);
  const before = useRef<EventTarget | null>(null); // had the focus
  const labels = [...new Set([...objects.map(({ label }) => label), ...others].filter(Boolean))];
  const save = (label: string) => {
    if (label.trim() !== (object.label ?? "")) labelObject(object.id, label);
  };
  return (
    <>
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
        {labels.map((label) => (
          <option key={label} value={label} />
        ))}
      </datalist>
    </>
  );
}
