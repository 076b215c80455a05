import { findObject, type Scene } from "../state/scene";

interface Coco {
  annotations: { object: number; name?: string }[];
}

/** Adds the objects' names to a COCO file; the server knows only their numbers. */
export async function withNames(file: Blob, scene: Scene): Promise<Blob> {
  const coco = JSON.parse(await file.text()) as Coco;
  for (const annotation of coco.annotations) {
    const name = findObject(scene, annotation.object)?.name;
    if (name) annotation.name = name;
  }
  return new Blob([JSON.stringify(coco)], { type: file.type });
}

/** Saves a file as a download of the browser. */
export function saveFile(content: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  // The browser needs the URL until it starts to save.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
