import { countSaved, replaceSaved } from "../project/autosave";
import { replaceInProject } from "../project/project";
import { counted } from "../scene/counted";
import { replaceClass } from "../state/classes";
import { announce, getState, setState } from "../state/store";
import { store } from "../state/stored";
import { usePhotos } from "./list";

const REPLACED = "sam2fast-replaced-class"; // in localStorage, for other tabs

/** Renames a class, also where other videos, photographs and tabs have it. */
export function renameClass(from: string, to: string): void {
  store(REPLACED, JSON.stringify([from, to, Date.now()])); // first: a tab with objects of the old class would list it again
  replaceHere(from, to);
  void replaceSaved(from, to);
}

/** Removes a class; asks first if objects have it. */
export async function removeClass(name: string): Promise<void> {
  const here = getState().scene.objects.filter(({ label }) => label === name).length;
  const count = here + (await countSaved(name));
  const remove = () => {
    renameClass(name, "");
    announce(`${name} is removed.`);
  };
  if (count === 0) return remove();
  const text = `${counted(count, "object")} in this browser’s videos and photographs will have no class. This cannot be undone.`;
  setState({
    dialog: { title: `Remove “${name}”?`, text, no: "Keep it", yes: "Remove", onYes: remove, back: "classes" },
  });
}

/** Follows classes that other tabs rename and remove. */
export function watchReplaced(): void {
  window.addEventListener("storage", ({ key, newValue }) => {
    if (key !== REPLACED || newValue === null) return;
    const [from, to] = JSON.parse(newValue) as [string, string];
    replaceHere(from, to);
  });
}

function replaceHere(from: string, to: string): void {
  const renamed = getState().classes.map((one) => (one.name === from ? { ...one, name: to } : one));
  replaceClass(
    renamed.filter(({ name }) => name !== ""),
    from,
    to,
  );
  usePhotos.setState(({ items }) => ({
    items: items.map((item) => (item.work ? { ...item, work: replaceInProject(item.work, from, to) } : item)),
  }));
}
