import { useRef, type CSSProperties, type ReactNode } from "react";

interface Props {
  className?: string;
  style?: CSSProperties;
  label: string;
  onDelete: () => void;
  children?: ReactNode;
}

/** A button on the frame that deletes the prompt it marks. */
export function DeleteMark({ label, onDelete, ...rest }: Props) {
  // After a tap the browser clicks the element at that position, which is the mark that the tap has just created.
  const isPressed = useRef(false);
  return (
    <button
      type="button"
      aria-label={label}
      title="Click to delete"
      onPointerDown={(event) => {
        event.stopPropagation();
        isPressed.current = true;
      }}
      onClick={({ detail }) => {
        const isByKey = detail === 0;
        if (isPressed.current || isByKey) onDelete();
        isPressed.current = false;
      }}
      onKeyDown={(event) => {
        if (event.key !== "Delete" && event.key !== "Backspace") return;
        event.stopPropagation();
        onDelete();
      }}
      {...rest}
    />
  );
}
