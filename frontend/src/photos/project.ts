import { hasWork, loadProject, saveNow } from "../project/autosave";
import { replacing } from "../project/files";
import { parseProject, type Project } from "../project/project";
import { isClasses, type Classes } from "../scene/classes";
import { adoptClasses, joinClasses } from "../state/classes";
import { getState, setState } from "../state/store";
import { openSavedPhotos, workOn, type PhotoItem } from "./list";

const FORMAT = "sam2fast photographs";

interface SavedPhoto {
  readonly name: string;
  readonly done: boolean;
  readonly work: Project;
  /** The place of its image in `images`. */
  readonly image?: number;
}

interface SavedPhotos {
  readonly format: typeof FORMAT;
  readonly version: 1;
  readonly classes?: Classes;
  readonly photographs: readonly SavedPhoto[];
  /** The images behind objects: most photographs have the same one. */
  readonly images?: readonly string[];
}

/** A project file: of one photograph as of a video, otherwise of a list. */
export async function projectOf(items: readonly PhotoItem[]): Promise<Blob> {
  const found = await Promise.all(items.map(async (item) => ({ item, work: await workOn(item) })));
  const photographs = found.flatMap(({ item: { name, done }, work }) => {
    if (!work) return [];
    const { history: _, ...saved } = work; // undo and redo stay in the browser
    return { name, done, work: saved };
  });
  joinClasses(photographs.flatMap(({ work }) => work.scene.objects));
  const { classes } = getState();
  const content =
    items.length === 1
      ? { ...photographs[0]?.work, classes }
      : { format: FORMAT, version: 1, classes, ...shared(photographs) };
  return new Blob([JSON.stringify(content)], { type: "application/json" });
}

/** The photographs with each image behind objects once. */
function shared(photographs: readonly SavedPhoto[]): Pick<SavedPhotos, "photographs" | "images"> {
  const images = [...new Set(photographs.flatMap(({ work }) => work.look.image ?? []))];
  const saved = photographs.map(({ name, done, work }) => {
    const { image, ...look } = work.look;
    return { name, done, work: { ...work, look }, ...(image && { image: images.indexOf(image) }) };
  });
  return { photographs: saved, images };
}

/** Whether a file is a project of several photographs. */
export function isPhotosProject(text: string): boolean {
  return text.includes(`"${FORMAT}"`);
}

/** Opens a project of several photographs. @throws Error that says what is wrong with it */
export async function openPhotosProject(text: string): Promise<void> {
  let saved: Partial<SavedPhotos> | null = null;
  try {
    saved = JSON.parse(text) as Partial<SavedPhotos> | null;
  } catch {
    // reported below
  }
  const classes = saved?.classes ?? [];
  if (saved?.format !== FORMAT || saved.version !== 1 || !Array.isArray(saved.photographs) || !isClasses(classes)) {
    throw new Error("This is not a project of photographs that was saved by this page.");
  }
  const { images = [], photographs: found } = saved as SavedPhotos;
  const photographs = found.map(({ name, done, work, image = -1 }) => {
    const look = image in images ? { ...work.look, image: images[image] } : work.look;
    const project = parseProject(JSON.stringify({ ...work, look }));
    return { name: String(name).slice(0, 200), done: done === true, work: project };
  });
  if (photographs.length === 0) throw new Error("This project has no photographs.");
  await saveNow();
  const others = await Promise.all(
    photographs.map(async ({ work: { clip } }) => hasWork(await loadProject(clip.path))),
  );
  const count = others.filter(Boolean).length;
  const open = () => {
    adoptClasses(classes);
    return openSavedPhotos(photographs);
  };
  if (count === 0) return open();
  const onYes = () => void open();
  setState({ dialog: { ...replacing(`${count} of these photographs`), onYes } });
}
