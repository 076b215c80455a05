import {
  Brush,
  CircleHelp,
  Check,
  Clapperboard,
  CloudDownload,
  Cpu,
  ChevronFirst,
  ChevronLast,
  ChevronLeft,
  ChevronDown,
  ChevronRight,
  ChevronUp,
  Download,
  Eraser,
  Eye,
  FileUp,
  FolderOpen,
  Images,
  Minus,
  Monitor,
  Moon,
  Pause,
  Pencil,
  Play,
  Plus,
  Redo2,
  RotateCcw,
  Sparkles,
  SquareDashed,
  Sun,
  Tags,
  Trash2,
  Undo2,
  Upload,
  X,
  ZoomIn,
  ZoomOut,
} from "lucide-react";
import type { ButtonHTMLAttributes } from "react";

const ICONS = {
  play: Play,
  pause: Pause,
  back: ChevronLeft,
  forward: ChevronRight,
  first: ChevronFirst,
  last: ChevronLast,
  up: ChevronUp,
  down: ChevronDown,
  tags: Tags,
  plus: Plus,
  minus: Minus,
  box: SquareDashed,
  close: X,
  bin: Trash2,
  pen: Pencil,
  undo: Undo2,
  redo: Redo2,
  check: Check,
  cloud: CloudDownload,
  model: Cpu,
  help: CircleHelp,
  sun: Sun,
  moon: Moon,
  screen: Monitor,
  video: Clapperboard,
  sparkles: Sparkles,
  folder: FolderOpen,
  images: Images,
  import: FileUp,
  download: Download,
  upload: Upload,
  restart: RotateCcw,
  brush: Brush,
  eraser: Eraser,
  eye: Eye,
  zoomIn: ZoomIn,
  zoomOut: ZoomOut,
} as const;

export type IconName = keyof typeof ICONS;

export function Icon({ name }: { name: IconName }) {
  const Drawing = ICONS[name];
  return <Drawing className="icon" aria-hidden="true" size={20} fill={name === "play" ? "currentColor" : "none"} />;
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
