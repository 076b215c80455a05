import { create } from "zustand";

const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const KEY = "sam2fast-theme";

export const useTheme = create<{ theme: Theme }>(() => ({ theme: "system" }));

/** Applies the theme of the last visit. */
export function applyStoredTheme(): void {
  let stored: string | null = null;
  try {
    stored = localStorage.getItem(KEY);
  } catch {
    // Storage may be forbidden; use the system's theme.
  }
  setTheme(THEMES.find((theme) => theme === stored) ?? "system");
}

export function nextTheme(): void {
  const { theme } = useTheme.getState();
  setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!);
}

function setTheme(theme: Theme): void {
  document.documentElement.dataset["theme"] = theme;
  useTheme.setState({ theme });
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // As above.
  }
}
