import { createStore, get, set } from "idb-keyval";
import type { Part } from "../api/upload";
import type { Size } from "./arrays";

/** The videos: the gallery's beside the page, uploaded ones in the browser. */

const STORE = createStore("sam2fast-in-browser", "videos");

export interface VideoFacts {
  readonly path: string;
  readonly posterPath: string | null;
  readonly width: number;
  readonly height: number;
}

/** What is kept of an upload. */
export interface Source {
  readonly file: Blob;
  readonly part: Part;
  readonly size: Size;
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

/** @param source what the video was made of, if that is larger */
export async function keepVideo(path: string, file: Blob, source: Source | null): Promise<void> {
  await set(path, file, STORE);
  if (source) await set(sourcePath(path), source, STORE);
}

export async function readSource(path: string): Promise<Source | null> {
  return (await get<Source>(sourcePath(path), STORE)) ?? null;
}

function sourcePath(path: string): string {
  return path.replace(/^uploads/, "sources");
}
