import type { Clip } from "./video";

/** All requests of the page go through here: to the server that it came from. */
export const send: typeof fetch = (input, init) => fetch(input, init);

/** The clip with an address where its video can be played. */
export function located(clip: Clip): Promise<Clip> {
  return Promise.resolve(clip);
}
