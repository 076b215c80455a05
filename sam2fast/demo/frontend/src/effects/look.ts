/** How objects and their background are drawn. */

export const OBJECT_EFFECTS = ["overlay", "outline", "original", "blur", "pixelate", "desaturate", "erase"] as const;
export type ObjectEffect = (typeof OBJECT_EFFECTS)[number];

export const BACKGROUND_EFFECTS = [
  "original",
  "darken",
  "blur",
  "pixelate",
  "desaturate",
  "erase",
  "white",
  "green",
] as const;
export type BackgroundEffect = (typeof BACKGROUND_EFFECTS)[number];

export interface Look {
  readonly objects: ObjectEffect;
  readonly background: BackgroundEffect;
}

export const DEFAULT_LOOK: Look = { objects: "overlay", background: "original" };

export const PRESETS: readonly { name: string; look: Look }[] = [
  { name: "Overlay", look: DEFAULT_LOOK },
  { name: "Outline", look: { objects: "outline", background: "original" } },
  { name: "Cut-out", look: { objects: "original", background: "erase" } },
  { name: "Spotlight", look: { objects: "original", background: "darken" } },
  { name: "Portrait", look: { objects: "original", background: "blur" } },
  { name: "Colour pop", look: { objects: "original", background: "desaturate" } },
  { name: "Anonymous", look: { objects: "pixelate", background: "original" } },
];
