// `sam2fast export --format web` names the folder of the model and its runtime in the page.
export const localFolder =
  typeof document === "undefined"
    ? undefined
    : document.querySelector<HTMLMetaElement>('meta[name="sam2fast-in-browser"]')?.content;

/** Whether the page has no server: the model runs in the browser. */
export const isInBrowser = localFolder !== undefined;

/** Answers the requests of a page without a server. */
interface LocalServer {
  send(path: string, init?: RequestInit): Promise<Response>;
  /** The address of a video in this page; null if there is no such video. */
  addressOf(path: string): Promise<string | null>;
}

let local: Promise<LocalServer> | null = null;

/** Sends all requests from now on to a server in the page. */
export function setLocalServer(server: Promise<LocalServer>): void {
  local = server;
}

/** All requests of the page go through here: to the server that it came from, or to one in the page. */
export const send: typeof fetch = async (input, init) =>
  local ? (await local).send(input as string, init) : fetch(input, init);

/** The address of a video in the page, of pages without a server; null for the address that the API gives. */
export async function localAddress(path: string): Promise<string | null> {
  return local && (await local).addressOf(path);
}
