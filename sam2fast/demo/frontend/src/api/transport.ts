import type { Engine } from "../local/runtime";
import type { Clip } from "./video";

// `sam2fast export --format web` names the folder of the model and its runtime in the page.
const FOLDER =
  typeof document === "undefined"
    ? undefined
    : document.querySelector<HTMLMetaElement>('meta[name="sam2fast-in-browser"]')?.content;

/** Whether the page has no server: the model runs in the browser. */
export const isInBrowser = FOLDER !== undefined;

const local = FOLDER === undefined ? null : startLocal(FOLDER);
const listeners = new Set<(loading: Loading) => void>();

async function startLocal(folder: string) {
  const client = await import("../local/client");
  client.start(folder, (loading) => listeners.forEach((listener) => listener(loading)));
  return client;
}

/** All requests of the page go through here: to the server that it came from, or to one in the page. */
export const send: typeof fetch = async (input, init) =>
  local ? (await local).send(input as string, init) : fetch(input, init);

/** The clip with an address where its video can be played. */
export async function located(clip: Clip): Promise<Clip> {
  return local ? (await local).located(clip) : clip;
}

/** What is loaded of the model: a share, and why it failed; what runs it, when that is known. */
export interface Loading {
  readonly share: number;
  readonly problem: string | null;
  readonly engine: Engine | null;
}

/** Calls back while the model is loaded; returns a function that ends it. */
export function onLoading(listener: (loading: Loading) => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
