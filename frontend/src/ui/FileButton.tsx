import { useRef, type ReactNode } from "react";
import { Icon, type IconName } from "./Icon";

interface Props {
  /** The name of the hidden field, for screen readers. */
  field: string;
  accept: string;
  icon: IconName;
  className?: string;
  disabled?: boolean;
  /** Several files may be selected. */
  multiple?: boolean;
  /** A folder is selected: all of its files. */
  folder?: boolean;
  onFiles: (files: File[]) => void;
  children: ReactNode;
}

/** A button that lets the user select files. */
export function FileButton({
  field,
  accept,
  icon,
  className,
  disabled,
  multiple = false,
  folder = false,
  onFiles,
  children,
}: Props) {
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <button type="button" className={className} disabled={disabled} onClick={() => input.current?.click()}>
        <Icon name={icon} />
        {children}
      </button>
      <input
        ref={input}
        type="file"
        aria-label={field}
        className="visually-hidden"
        tabIndex={-1}
        accept={accept}
        multiple={multiple || folder}
        {...(folder && { webkitdirectory: "" })}
        onChange={(event) => {
          const files = [...(event.target.files ?? [])];
          event.target.value = ""; // so that the same file can be chosen again
          onFiles(files);
        }}
      />
    </>
  );
}
