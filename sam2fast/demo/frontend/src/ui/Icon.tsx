import type { ButtonHTMLAttributes } from "react";

/** SVG paths on a grid of 24, drawn in the text's colour. */
const SHAPES = {
  play: "M8 5v14l11-7z",
  pause: "M8 5v14M16 5v14",
  back: "M15 6l-6 6 6 6",
  forward: "M9 6l6 6-6 6",
  first: "M17 6l-6 6 6 6M7 6v12",
  last: "M7 6l6 6-6 6M17 6v12",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  box: "M5 7h14v10H5z",
  close: "M6 6l12 12M18 6L6 18",
  bin: "M5 7h14M10 4h4M7 7l1 13h8l1-13M10 11v5M14 11v5",
  pen: "M4 20l1-4L16 5l3 3L8 19z",
  undo: "M9 7L4 12l5 5M4 12h10a5 5 0 0 1 0 10h-3",
  redo: "M15 7l5 5-5 5M20 12H10a5 5 0 0 0 0 10h3",
  help: "M9 9a3 3 0 1 1 4 3c-1 .5-1 1-1 2M12 18v.5",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v3M12 19v3M2 12h3M19 12h3M5 5l2 2M17 17l2 2M5 19l2-2M17 7l2-2",
  moon: "M20 14a8 8 0 1 1-9-10 6.5 6.5 0 0 0 9 10z",
  screen: "M4 5h16v11H4zM9 20h6M12 16v4",
  video: "M4 5h16v14H4zM8 5v14M16 5v14M4 12h16M4 8.500h4M4 15.500h4M16 8.500h4M16 15.500h4",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  upload: "M12 16V5M7 9l5-5 5 5M5 20h14",
  restart: "M5 5v5h5M5.500 10a7 7 0 1 1-.5 4",
} as const;

export type IconName = keyof typeof SHAPES;

export function Icon({ name }: { name: IconName }) {
  const isSolid = name === "play";
  return (
    <svg className="icon" viewBox="0 0 24 24" aria-hidden="true" fill={isSolid ? "currentColor" : "none"}>
      <path d={SHAPES[name]} />
    </svg>
  );
}

interface IconButtonProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  icon: IconName;
  /** The action: read by screen readers and shown on hover. */
  label: string;
  /** The keyboard shortcut, as shown to the user. */
  shortcut?: string;
}

export function IconButton({ icon, label, shortcut, className = "", ...rest }: IconButtonProps) {
  const title = shortcut ? `${label} (${shortcut})` : label;
  return (
    <button type="button" className={`icon-button ${className}`} aria-label={label} title={title} {...rest}>
      <Icon name={icon} />
    </button>
  );
}
