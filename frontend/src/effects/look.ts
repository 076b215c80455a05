import { MAX_BACKDROP } from "./backdrop";

/** How objects and their background are drawn: an effect and one of its variants for each. */

export interface Choice<Effect extends string> {
  readonly effect: Effect;
  /** Below the effect's number of variants. */
  readonly variant: number;
}

export interface Look {
  readonly objects: Choice<ObjectEffect>;
  readonly background: Choice<BackgroundEffect>;
  /** Of the background's text; without them it has its own. */
  readonly words?: string;
  /** Of the background, `#rrggbb`. */
  readonly colour?: string;
  /** The address of the user's image behind the objects; see `backdrop.ts`. */
  readonly image?: string;
}

export const MAX_WORDS = 200; // characters
export const COLOUR = "#2f6df6"; // of the background, until the user chooses one
const IMAGE = "data:image/"; // the beginning of addresses

interface EffectInfo {
  readonly name: string;
  readonly variants: number;
}

export const OBJECT_EFFECTS = {
  overlay: { name: "Overlay", variants: 8 },
  outline: { name: "Outline", variants: 2 },
  original: { name: "Original", variants: 4 },
  erase: { name: "Erase", variants: 4 },
  gradient: { name: "Gradient", variants: 3 },
  pixelate: { name: "Pixelate", variants: 3 },
  blur: { name: "Blur", variants: 3 },
  desaturate: { name: "Desaturate", variants: 3 },
  emoji: { name: "Emoji", variants: 6 },
  burst: { name: "Burst", variants: 4 },
  spotlight: { name: "Spotlight", variants: 6 },
  arrow: { name: "Arrow", variants: 4 },
  noise: { name: "Noise", variants: 1 },
} as const satisfies Record<string, EffectInfo>;
export type ObjectEffect = keyof typeof OBJECT_EFFECTS;

export const BACKGROUND_EFFECTS = {
  original: { name: "Original", variants: 3 },
  erase: { name: "Erase", variants: 4 },
  colour: { name: "Colour", variants: 1 },
  image: { name: "Image", variants: 1 },
  gradient: { name: "Gradient", variants: 3 },
  pixelate: { name: "Pixelate", variants: 3 },
  desaturate: { name: "Desaturate", variants: 3 },
  text: { name: "Text", variants: 2 },
  blur: { name: "Blur", variants: 3 },
  sobel: { name: "Edges", variants: 4 },
} as const satisfies Record<string, EffectInfo>;
export type BackgroundEffect = keyof typeof BACKGROUND_EFFECTS;

/** The next variant of the selected effect, or the first of another one. */
export function nextChoice<Effect extends string>(
  table: Record<Effect, EffectInfo>,
  current: Choice<Effect>,
  effect: Effect,
): Choice<Effect> {
  const variant = effect === current.effect ? (current.variant + 1) % table[effect].variants : 0;
  return { effect, variant };
}

function look(objects: ObjectEffect, o: number, background: BackgroundEffect, b: number): Look {
  return { objects: { effect: objects, variant: o }, background: { effect: background, variant: b } };
}

export const DEFAULT_LOOK: Look = look("overlay", 0, "original", 0);
export const CUT_OUT: Look = look("original", 0, "erase", 0);

export const PRESETS: readonly { name: string; look: Look }[] = [
  { name: "Overlay", look: DEFAULT_LOOK },
  { name: "Outline", look: look("outline", 0, "original", 0) },
  { name: "Cut-out", look: CUT_OUT },
  { name: "Portrait", look: look("original", 0, "blur", 1) },
  { name: "Colour pop", look: look("original", 0, "desaturate", 0) },
  { name: "Anonymous", look: look("pixelate", 1, "original", 0) },
];

const SURPRISES: readonly Look[] = [
  look("gradient", 0, "sobel", 0),
  look("burst", 0, "original", 2),
  look("emoji", 0, "original", 0),
  look("original", 1, "text", 0),
  look("spotlight", 0, "desaturate", 1),
  look("original", 0, "gradient", 1),
  look("emoji", 5, "blur", 2),
  look("gradient", 2, "text", 1),
  look("overlay", 4, "sobel", 3),
];

/** Whether two looks have the same effects. */
export function isSameLook(a: Look, b: Look): boolean {
  const isSame = (one: Choice<string>, other: Choice<string>) =>
    one.effect === other.effect && one.variant === other.variant;
  return isSame(a.objects, b.objects) && isSame(a.background, b.background);
}

/** Whether a value from a file is a look that this page knows. */
export function isLook({ objects, background, words, colour = COLOUR, image = IMAGE }: Look): boolean {
  const isKnown = (table: Record<string, EffectInfo>, { effect, variant }: Choice<string>) =>
    Object.hasOwn(table, effect) && Number.isInteger(variant) && variant >= 0 && variant < table[effect]!.variants;
  const isText = words === undefined || (typeof words === "string" && words.length <= MAX_WORDS);
  const isImage = typeof image === "string" && image.startsWith(IMAGE) && image.length <= MAX_BACKDROP;
  return (
    isText &&
    isImage &&
    /^#[0-9a-f]{6}$/.test(colour) &&
    isKnown(OBJECT_EFFECTS, objects) &&
    isKnown(BACKGROUND_EFFECTS, background)
  );
}

/** The look after the current one in a list of unusual ones. */
export function surprise(current: Look): Look {
  const place = SURPRISES.findIndex((other) => isSameLook(other, current));
  return { ...current, ...SURPRISES[(place + 1) % SURPRISES.length]! };
}
