import { BetterModel, ModelBadge } from "../models/ModelBadge";
import { setState, useStore } from "../state/store";
import { Icon, IconButton } from "../ui/Icon";
import { nextTheme, useTheme } from "../ui/theme";

const THEME_ICONS = { system: "screen", light: "sun", dark: "moon" } as const;

export function TopBar() {
  const clip = useStore((state) => state.clip);
  const { theme } = useTheme();

  return (
    <header className="top-bar">
      <h1>sam2fast</h1>
      <ModelBadge />
      <BetterModel />
      <span className="clip-name">{clip?.name}</span>
      <button
        type="button"
        className="videos"
        aria-label="Videos and photographs"
        onClick={() => setState({ dialog: "videos" })}
      >
        <Icon name="video" />
        <span>Videos and photographs</span>
      </button>
      <IconButton icon={THEME_ICONS[theme]} label={`Colours: ${theme}; change`} onClick={nextTheme} />
      <IconButton icon="help" label="Help" shortcut="?" onClick={() => setState({ dialog: "help" })} />
    </header>
  );
}
