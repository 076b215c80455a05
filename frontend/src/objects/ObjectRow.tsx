import { useEffect, useRef, useState } from "react";
import { CleanSlider } from "../precision/CleanSlider";
import { LabelField } from "../precision/LabelField";
import { promptedFrames, type SceneObject } from "../scene/scene";
import { deleteObject, renameObject } from "../state/editing";
import { setState, useStore } from "../state/store";
import { IconButton } from "../ui/Icon";
import { Thumbnail } from "./Thumbnail";

/** One object; its name is the button that selects it. */
export function ObjectRow({ object, locked }: { object: SceneObject; locked: boolean }) {
  const isActive = useStore((state) => state.active === object.id);
  const isHovered = useStore((state) => state.hovered === object.id);
  const row = useRef<HTMLLIElement>(null);
  useEffect(() => {
    if (isActive) row.current?.scrollIntoView({ block: "nearest" });
  }, [isActive]);
  const [isRenaming, setRenaming] = useState(false);
  const finish = (name: string) => {
    if (name.trim() && name.trim() !== object.name) renameObject(object.id, name);
    setRenaming(false);
  };

  return (
    <li
      ref={row}
      className={`object ${isActive ? "active" : ""} ${isHovered ? "hovered" : ""}`}
      style={{ "--colour": object.colour } as React.CSSProperties}
      onPointerEnter={() => setState({ hovered: object.id })}
      onPointerLeave={() => setState({ hovered: null })}
    >
      <Thumbnail object={object} />
      {isRenaming ? (
        <input
          aria-label={`Name of ${object.name}`}
          defaultValue={object.name}
          maxLength={60}
          // The field replaces the button that was pressed.
          ref={(field) => field?.focus()}
          onFocus={(event) => event.target.select()}
          onBlur={(event) => finish(event.target.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter") finish(event.currentTarget.value);
            if (event.key === "Escape") setRenaming(false);
          }}
        />
      ) : (
        <button
          type="button"
          className="object-name"
          aria-pressed={isActive}
          onClick={() => setState({ active: object.id })}
          onDoubleClick={() => !locked && setRenaming(true)}
        >
          <span>{object.name}</span>
          <small>{summary(object)}</small>
        </button>
      )}
      <IconButton icon="pen" label={`Rename ${object.name}`} disabled={locked} onClick={() => setRenaming(true)} />
      <IconButton
        icon="bin"
        label={`Delete ${object.name}`}
        disabled={locked}
        onClick={() => deleteObject(object.id)}
      />
      {isActive && <LabelField object={object} locked={locked} />}
      {isActive && <CleanSlider object={object} locked={locked} />}
    </li>
  );
}

function summary(object: SceneObject): string {
  const frames = promptedFrames(object).length;
  const label = object.label ? `${object.label} · ` : "";
  if (frames === 0) return `${label}Click on it`;
  const prompts = Object.values(object.prompts);
  const points = prompts.reduce((sum, { points }) => sum + points.length, 0);
  const boxes = prompts.filter(({ box }) => box).length;
  const masks = prompts.filter(({ mask }) => mask).length;
  const parts = [
    points > 0 && count(points, "point"),
    boxes > 0 && count(boxes, "box", "boxes"),
    masks > 0 && count(masks, "mask"),
  ].filter(Boolean);
  return label + parts.join(", ") + (frames > 1 ? `, ${frames} frames` : "");
}

function count(number: number, one: string, many = `${one}s`): string {
  return `${number} ${number === 1 ? one : many}`;
}
