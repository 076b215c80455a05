import { createStore, get, set } from "idb-keyval";

/** The videos: the gallery's beside the page, uploaded ones in the browser. */

const STORE = createStore("sam2fast-in-browser", "videos");

export interface VideoFacts {
  readonly path: string;
  readonly posterPath: string | null;
  readonly width: number;
  readonly height: number;
}

/** What `sam2fast export --format web` says about the page. */
export interface Settings {
  readonly model: string;
  readonly imageSize: number;
  readonly videos: readonly VideoFacts[];
}

/** @param root the page's address, with a slash at the end @returns null if there is no such video */
export async function readVideo(root: string, path: string): Promise<Blob | null> {
  if (path.startsWith("uploads/")) return (await get<Blob>(path, STORE)) ?? null;
  const response = await fetch(root + path.split("/").map(encodeURIComponent).join("/"));
  return response.ok ? response.blob() : null;
}

export function keepVideo(path: string, file: Blob): Promise<void> {
  return set(path, file, STORE);
}
