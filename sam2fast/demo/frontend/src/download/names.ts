import { findObject, type Scene } from "../state/scene";

interface Coco {
  annotations: { object: number; name?: string }[];
}

/** A file of run lengths, in which each annotation is given the name of its object: the server knows only numbers. */
export async function withNames(file: Blob, scene: Scene): Promise<Blob> {
  const coco = JSON.parse(await file.text()) as Coco;
  for (const annotation of coco.annotations) {
    const name = findObject(scene, annotation.object)?.name;
    if (name) annotation.name = name;
  }
  return new Blob([JSON.stringify(coco)], { type: file.type });
}
