import type { Engine } from "./runtime";

/** What page and worker send each other: requests of the page's API, and their answers. */

export interface Call {
  readonly path: string;
  /** JSON, or a ZIP of frames. */
  readonly body: string | Blob | null;
  /** The video of an upload. */
  readonly file: File | null;
}

export interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: string | Blob | AsyncIterable<string>;
}

/** How much of the model is loaded. */
export interface Loading {
  readonly share: number;
  /** Why it cannot be loaded, or runs no more. */
  readonly problem: string | null;
  /** What runs it; null until this is known. */
  readonly engine: Engine | null;
}

export type ToWorker =
  | { readonly kind: "start"; readonly root: string; readonly folder: string }
  | { readonly kind: "call"; readonly id: number; readonly call: Call }
  | { readonly kind: "cancel"; readonly id: number };

export type FromWorker =
  | ({ readonly kind: "loading" } & Loading)
  /** Of a body that follows in chunks, `content` is null. */
  | {
      readonly kind: "answer";
      readonly id: number;
      readonly status: number;
      readonly type: string;
      readonly content: string | Blob | null;
    }
  | { readonly kind: "chunk"; readonly id: number; readonly text: string }
  | { readonly kind: "end"; readonly id: number; readonly problem: string | null };

/** A refusal with a code and status of the server's API. */
export class Refusal extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly status = 400,
  ) {
    super(message);
  }
}
