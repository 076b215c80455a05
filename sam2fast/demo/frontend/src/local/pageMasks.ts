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
}

export interface PageMasks {
  /** In their order: where masks overlap, the later object is seen. */
  readonly objects: readonly PageObject[];
  readonly frames: readonly { readonly frame: number; readonly masks: readonly PageMask[] }[];
}
