import { countSaved, replaceSaved } from "../project/autosave";
import { replaceInProject } from "../project/project";
import { counted } from "../scene/counted";
import { replaceClass } from "../state/classes";
import { getState, setState } from "../state/store";
import { usePhotos } from "./list";

/** Renames a class, also where other videos and photographs have it. */
export function renameClass(from: string, to: string): void {
  replaceClass(
    getState().classes.map((one) => (one.name === from ? { ...one, name: to } : one)),
    from,
    to,
  );
  replaceElsewhere(from, to);
}

/** Removes a class; asks first if objects have it. */
export async function removeClass(name: string): Promise<void> {
  const here = getState().scene.objects.filter(({ label }) => label === name).length;
  const count = here + (await countSaved(name));
  const remove = () => {
    replaceClass(
      getState().classes.filter((one) => one.name !== name),
      name,
      "",
    );
    replaceElsewhere(name, "");
    setState({ dialog: "classes" });
  };
  if (count === 0) return remove();
  const text = `${counted(count, "object")} in this browser’s videos and photographs will have no class. This cannot be undone.`;
  setState({ dialog: { title: `Remove “${name}”?`, text, no: "Keep it", yes: "Remove", onYes: remove } });
}

function replaceElsewhere(from: string, to: string): void {
  usePhotos.setState(({ items }) => ({
    items: items.map((item) => (item.work ? { ...item, work: replaceInProject(item.work, from, to) } : item)),
  }));
  void replaceSaved(from, to);
}
