/** The outlines of cut-outs and mattes in files; `sam2fast/demo/server/alpha.py` draws them. */
export interface Edges {
  readonly kind: "hard" | "feather" | "matte";
  /** Pixels of the source to each side of the outline, of feathered ones. */
  readonly feather: number;
}

export const MAX_FEATHER = 40;

/** As parameters of a request's address. */
export function edgesQuery({ kind, feather }: Edges): string {
  return kind === "hard" ? "" : `&edges=${kind}&feather=${feather}`;
}

/** Pixels of the source over which outlines are soft in what the page draws itself. */
export function featherOf({ kind, feather }: Edges): number {
  return kind === "feather" ? feather : 0;
}
