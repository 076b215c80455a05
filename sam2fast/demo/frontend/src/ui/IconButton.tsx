import type { ButtonHTMLAttributes } from "react";
import { Icon, type IconName } from "./Icon";

interface Props extends ButtonHTMLAttributes<HTMLButtonElement> {
  icon: IconName;
  /** What it does: read out, and shown on hover. */
  label: string;
  /** The key that does the same, as shown to the user. */
  shortcut?: string;
}

export function IconButton({ icon, label, shortcut, className = "", ...rest }: Props) {
  const title = shortcut ? `${label} (${shortcut})` : label;
  return (
    <button type="button" className={`icon-button ${className}`} aria-label={label} title={title} {...rest}>
      <Icon name={icon} />
    </button>
  );
}
