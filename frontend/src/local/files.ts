import { createStore, get, set } from "idb-keyval";
import type { Numbering } from "../api/rest";
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

/** The file that an upload was made of. */
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

/** How an upload was made. */
export interface Making {
  /** Null if it is not larger than the upload. */
  readonly source: Source | null;
  readonly numbering: Numbering | null;
}

export async function keepVideo(path: string, file: Blob, { source, numbering }: Making): Promise<void> {
  await set(path, file, STORE);
  if (source) await set(besideUpload(path, "sources"), source, STORE);
  if (numbering) await set(besideUpload(path, "numberings"), numbering, STORE);
}

export async function readSource(path: string): Promise<Source | null> {
  return (await get<Source>(besideUpload(path, "sources"), STORE)) ?? null;
}

export async function readNumbering(path: string): Promise<Numbering | null> {
  return (await get<Numbering>(besideUpload(path, "numberings"), STORE)) ?? null;
}

function besideUpload(path: string, folder: "sources" | "numberings"): string {
  return path.replace(/^uploads/, folder);
}
