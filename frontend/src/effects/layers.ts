import type { MaskBitmaps } from "../masks/bitmaps";
import { masksAt, type Masks } from "../masks/masks";
import { maskBounds } from "../masks/rle";
import type { Scene } from "../scene/scene";
import { shownMask } from "../scene/shown";
import type { Layer } from "./render";

/**
 * The objects that are seen on a frame, in the order of the scene.
 *
 * @param scale of the drawn frame's pixels to those of the masks
 */
export function layersOf(
  { masks, scene, hovered }: { masks: Masks; scene: Scene; hovered: number | null },
  frame: number,
  bitmaps: MaskBitmaps,
  scale = 1,
): Layer[] {
  const entries = masksAt(masks, frame);
  return scene.objects.flatMap((object) => {
    const { id, colour } = object;
    const entry = entries.get(id);
    if (!entry?.area) return [];
    const shown = shownMask(object, entry);
    const mask = bitmaps.get(shown, colour);
    const { left, top, width, height } = maskBounds(shown);
    const bounds = { left: scale * left, top: scale * top, width: scale * width, height: scale * height };
    return [{ id, mask, colour, bounds, isHighlighted: id === hovered }];
  });
}
