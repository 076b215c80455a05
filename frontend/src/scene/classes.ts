import { COLOURS, labelObject, type Scene, type SceneObject } from "./scene";

/** The classes of objects: a list in the order of their keys and of their numbers in files. */

export interface ObjectClass {
  readonly name: string;
  /** `#rrggbb`; objects of the class are drawn in it. */
  readonly colour: string;
}

export type Classes = readonly ObjectClass[];

export function isClasses(value: unknown): value is Classes {
  const isClass = (one: Partial<ObjectClass> | null) =>
    typeof one?.name === "string" && one.name.trim() !== "" && /^#[0-9a-f]{6}$/i.test(String(one.colour));
  return Array.isArray(value) && value.every(isClass) && new Set(namesOf(value as Classes)).size === value.length;
}

export function namesOf(classes: Classes): string[] {
  return classes.map(({ name }) => name);
}

/** @param wish the class's colour if no other class has it */
export function addClass(classes: Classes, name: string, wish?: string): Classes {
  const isFree = (one: string) => classes.every(({ colour }) => colour !== one);
  const colour = [wish ?? COLOURS[0], ...COLOURS].find(isFree) ?? COLOURS[classes.length % COLOURS.length]!;
  return [...classes, { name, colour }];
}

/** The list with the classes of objects that it lacks at its end. */
export function withLabels(classes: Classes, objects: readonly SceneObject[]): Classes {
  return objects.reduce((found, { label, colour }) => {
    return !label || namesOf(found).includes(label) ? found : addClass(found, label, colour);
  }, classes);
}

/** Moves a class up by -1 or down by 1. */
export function moveClass(classes: Classes, place: number, step: 1 | -1): Classes {
  const others = classes.filter((_, index) => index !== place);
  return [...others.slice(0, place + step), classes[place]!, ...others.slice(place + step)];
}

/** The scene with its objects in the colours of their classes; the same one if they are. */
export function inClassColours(scene: Scene, classes: Classes): Scene {
  const objects = scene.objects.map((object) => {
    const colour = object.label && classes.find(({ name }) => name === object.label)?.colour;
    return colour && colour !== object.colour ? { ...object, colour } : object;
  });
  return objects.some((object, place) => object !== scene.objects[place]) ? { objects } : scene;
}

/** The work with another class for the objects of one, or with none for "". */
export function replaceLabel<T extends { readonly scene: Scene }>(work: T, from: string, to: string): T {
  const replace = (scene: Scene, { id, label }: SceneObject) => (label === from ? labelObject(scene, id, to) : scene);
  return { ...work, scene: work.scene.objects.reduce(replace, work.scene) };
}
