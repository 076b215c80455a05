import { localFolder, setLocalServer } from "../api/transport";
import type { Loading } from "./calls";

/** Starts the server in pages that have no other, and reports how much of its model is loaded. */

const listeners = new Set<(loading: Loading) => void>();

/** Does nothing in pages with a server. */
export function startLocalServer(): void {
  if (localFolder !== undefined) setLocalServer(start(localFolder));
}

async function start(folder: string) {
  const client = await import("./client");
  client.start(folder, (loading) => listeners.forEach((listener) => listener(loading)));
  return client;
}

/** Calls back while the model is loaded; returns a function that ends it. */
export function onLoading(listener: (loading: Loading) => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
