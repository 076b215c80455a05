import { shownMask } from "../scene/shown";

/** The masks that a page sends to have files made of them. */

interface PageMask {
  readonly object: number;
  readonly size: readonly [height: number, width: number];
  readonly counts: string;
}

export interface PageObject {
  readonly id: number;
  readonly name: string;
  /** Its class; an object without one is a class of its own. */
  readonly label?: string;
  /** Parts and holes of its masks below this share of the frame's area go. */
  readonly clean?: number;
}

export interface PageMasks {
  /** The page's list of classes, whose order numbers them. */
  readonly classes: readonly string[];
  /** In their order: where masks overlap, the later object is seen. */
  readonly objects: readonly PageObject[];
  readonly frames: readonly { readonly frame: number; readonly masks: readonly PageMask[] }[];
}

/** The masks without specks and small holes. */
export function cleaned<T extends Pick<PageMasks, "objects" | "frames">>(page: T): T {
  const { objects, frames } = page;
  const clean = ({ object: id, size, counts }: PageMask): PageMask => {
    const [height, width] = size;
    const object = objects.find((other) => other.id === id);
    return { object: id, size, counts: object ? shownMask(object, { height, width, counts }).counts : counts };
  };
  return { ...page, frames: frames.map(({ frame, masks }) => ({ frame, masks: masks.map(clean) })) };
}

/** The listed classes, then others in the order of the objects. */
export function numberedClasses(listed: readonly string[], labels: readonly string[]): readonly string[] {
  return [...new Set([...listed, ...labels])];
}
