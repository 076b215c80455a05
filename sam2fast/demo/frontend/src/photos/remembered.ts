import { createStore, get, set } from "idb-keyval";
import { restoreList, usePhotos, type PhotoItem } from "./list";

/** Keeps the list in the browser for the next visit: the photographs that were opened, whose work is saved by itself. */

const STORE = typeof indexedDB === "undefined" ? undefined : createStore("sam2fast-photographs", "lists");
const KEY = "list";
const DELAY_MS = 500; // after a change

/** Shows the list of the last visit, and saves it from now on. */
export async function rememberPhotos(): Promise<void> {
  try {
    const items = await get<PhotoItem[]>(KEY, STORE);
    if (items && usePhotos.getState().items.length === 0) restoreList(items);
  } catch {
    // Nothing is stored here.
  }
  let timer = 0;
  usePhotos.subscribe(() => {
    clearTimeout(timer);
    timer = window.setTimeout(() => void save(), DELAY_MS);
  });
}

async function save(): Promise<void> {
  const opened = usePhotos.getState().items.filter(({ clip }) => clip !== null);
  const items = opened.map((item): PhotoItem => {
    const isLost = item.thumbnail?.startsWith("blob:"); // an address of this visit
    return { ...item, file: null, work: null, thumbnail: isLost ? null : item.thumbnail };
  });
  await set(KEY, items, STORE).catch(() => undefined);
}
