import { create } from "zustand";
import { readStored, store } from "../state/stored";

const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const KEY = "sam2fast-theme";

export const useTheme = create<{ theme: Theme }>(() => ({ theme: "system" }));

/** Applies the theme of the last visit. */
export function applyStoredTheme(): void {
  const stored = readStored(KEY);
  setTheme(THEMES.find((theme) => theme === stored) ?? "system");
}

export function nextTheme(): void {
  const { theme } = useTheme.getState();
  setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!);
}

function setTheme(theme: Theme): void {
  document.documentElement.dataset["theme"] = theme;
  useTheme.setState({ theme });
  store(KEY, theme);
}
