import { useEffect, useRef, useState } from "react";
import { removeClass, renameClass } from "../photos/classes";
import { addClass, moveClass, namesOf, type ObjectClass } from "../scene/classes";
import { setClasses } from "../state/classes";
import { announce, getState, useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";
import { IconButton } from "../ui/Icon";

const MAX_LENGTH = 60;
const KEYS = 9; // Shift 1 to Shift 9

/** The list of classes, to add, rename, colour, order and remove them. */
export function ClassesDialog() {
  const classes = useStore((state) => state.classes);
  const [problem, setProblem] = useState("");
  /** Returns a name that no class has yet; null after saying why not. */
  const accepted = (text: string): string | null => {
    const name = text.trim();
    const isTaken = namesOf(getState().classes).includes(name);
    setProblem(isTaken ? `There is a class “${name}” already.` : "");
    return name === "" || isTaken ? null : name;
  };

  return (
    <Dialog title="Classes">
      <p className="hint">
        Objects are drawn in the colour of their class.{" "}
        <span className="with-keys">Shift and a number give the selected object a class. </span>
        Files number the classes in this order.
      </p>
      <ol className="classes">
        {classes.map((one, place) => (
          <ClassRow key={place} one={one} place={place} count={classes.length} accepted={accepted} />
        ))}
      </ol>
      <form
        className="new-class"
        onSubmit={(event) => {
          event.preventDefault();
          const field = event.currentTarget.elements.namedItem("name") as HTMLInputElement;
          const name = accepted(field.value);
          if (name === null) return;
          setClasses(addClass(classes, name));
          announce(`${name} is added.`);
          field.value = "";
        }}
      >
        <input name="name" aria-label="New class" placeholder="New class, such as dog" maxLength={MAX_LENGTH} />
        <button type="submit">Add</button>
      </form>
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
    </Dialog>
  );
}

interface RowProps {
  one: ObjectClass;
  place: number;
  count: number;
  accepted: (text: string) => string | null;
}

function ClassRow({ one: { name, colour }, place, count, accepted }: RowProps) {
  const row = useRef<HTMLLIElement>(null);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => {
    field.current!.value = name;
  }, [name]);
  const move = (step: 1 | -1) => {
    setClasses(moveClass(getState().classes, place, step));
    // The focus follows the class.
    const next = step < 0 ? row.current!.previousElementSibling! : row.current!.nextElementSibling!;
    const [up, down] = next.querySelectorAll("button");
    (step < 0 ? (up!.disabled ? down : up) : down!.disabled ? up : down)!.focus();
    announce(`${name} is ${place + step + 1} of ${count}.`);
  };
  const recolour = (chosen: string) =>
    setClasses(getState().classes.map((one) => (one.name === name ? { name, colour: chosen } : one)));
  const rename = () => {
    const typed = field.current!;
    const wanted = typed.value.trim() === name ? null : accepted(typed.value);
    if (wanted === null) typed.value = name;
    else renameClass(name, wanted);
  };
  return (
    <li ref={row}>
      <kbd aria-hidden="true">{place < KEYS ? place + 1 : ""}</kbd>
      <input
        type="color"
        aria-label={`Colour of ${name}`}
        value={colour}
        onChange={({ target }) => recolour(target.value)}
      />
      <input
        aria-label={`Name of ${name}`}
        defaultValue={name}
        maxLength={MAX_LENGTH}
        ref={field}
        onBlur={rename}
        onKeyDown={({ key }) => {
          if (key === "Enter") rename();
        }}
      />
      <IconButton icon="up" label={`Move ${name} up`} disabled={place === 0} onClick={() => move(-1)} />
      <IconButton icon="down" label={`Move ${name} down`} disabled={place === count - 1} onClick={() => move(1)} />
      <IconButton icon="bin" label={`Remove ${name}`} onClick={() => void removeClass(name)} />
    </li>
  );
}
