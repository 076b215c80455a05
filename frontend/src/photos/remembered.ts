import { createStore, get, update } from "idb-keyval";
import { restoreList, usePhotos, type PhotoItem } from "./list";

/** Keeps the list in the browser for the next visit: the photographs that were opened, whose work is saved by itself. */

const STORE = typeof indexedDB === "undefined" ? undefined : createStore("sam2fast-photographs", "lists");
const KEY = "list";
const DELAY_MS = 500; // after a change

/** Shows the list of the last visit, and saves it from now on. */
export async function rememberPhotos(): Promise<void> {
  try {
    const items = await get<PhotoItem[]>(KEY, STORE);
    if (items && usePhotos.getState().items.length === 0) {
      note(items);
      restoreList(items);
    }
  } catch {
    // Nothing is stored here.
  }
  let timer = 0;
  usePhotos.subscribe(() => {
    clearTimeout(timer);
    timer = window.setTimeout(() => void save(), DELAY_MS);
  });
}

/** Saves the list beside the photographs of other tabs. */
export async function save(): Promise<void> {
  const opened = usePhotos.getState().items.filter(({ clip }) => clip !== null);
  const items = opened.map((item): PhotoItem => {
    const isLost = item.thumbnail?.startsWith("blob:"); // an address of this visit
    return { ...item, file: null, work: null, thumbnail: isLost ? null : item.thumbnail };
  });
  note(items);
  await update<PhotoItem[]>(KEY, (stored) => merged(stored ?? [], items, known), STORE).catch(() => undefined);
}

const known = new Set<string>(); // paths of the photographs that this tab has had in its list

function note(items: readonly PhotoItem[]): void {
  for (const { clip } of items) known.add(clip!.path);
}

/** This tab's list, and the photographs that only other tabs have. */
function merged(stored: readonly PhotoItem[], items: readonly PhotoItem[], known: ReadonlySet<string>) {
  return [...items, ...stored.filter(({ clip }) => !known.has(clip!.path))];
}
