import { cleanMask } from "../masks/clean";
import type { Mask } from "../masks/rle";
import type { Size } from "./geometry";
import type { SceneObject } from "./scene";

type Cleaned = Pick<SceneObject, "clean">;

/** An object's mask as it is drawn and exported: without specks and small holes. */
export function shownMask<M extends Mask>(object: Cleaned, mask: M): M {
  return cleanMask(mask, areaLimit(object, mask));
}

/** The number of pixels from which parts and holes stay, in an image of this size. */
export function areaLimit({ clean = 0 }: Cleaned, { width, height }: Size): number {
  return Math.round(clean * width * height);
}
