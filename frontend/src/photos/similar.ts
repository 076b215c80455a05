import { create } from "zustand";
import { findSimilar, type LabelledMask } from "../api/rest";
import { isPhoto } from "../api/video";
import { masksAt } from "../masks/masks";
import {
  acceptChosen,
  chosenCandidates,
  closeCandidates,
  isChoosing,
  offer,
  toggleEverything,
  useEverything,
} from "../precision/everything";
import { findObject } from "../scene/scene";
import { shownMask } from "../scene/shown";
import { announce, getState, notify, useStore } from "../state/store";
import { photoAfter, stepPhoto, usePhotos, workOn } from "./list";

/** What looks like a labelled object is offered in the next photographs. Only the user accepts it. */

interface Wanted {
  /** The object's class, or its name. */
  readonly name: string;
  /** The class of what is accepted; may be empty. */
  readonly label: string;
  readonly references: readonly LabelledMask[];
}

const MAX_REFERENCES = 8; // of the server

export const useSimilar = create<{ wanted: Wanted | null }>(() => ({ wanted: null }));

/** Begins with the selected object, and shows the next photograph; ends if it was begun. */
export async function toggleSimilar(): Promise<void> {
  if (useSimilar.getState().wanted) return endSimilar();
  const { clip, scene, active, masks, phase, limits } = getState();
  if (!clip || !isPhoto(clip) || phase !== "ready" || limits?.lacks?.includes("similar")) return;
  const [object, entry] = [findObject(scene, active), masksAt(masks, 0).get(active)];
  if (!object || !entry?.area) return notify("info", "Select an object that has a mask.");
  if (!photoAfter(1)) return notify("info", "There is no next photograph: add some.");
  const label = object.label ?? "";
  const references = [{ path: clip.path, mask: shownMask(object, entry) }, ...(await labelled(label))];
  useSimilar.setState({
    wanted: { name: label || object.name, label, references: references.slice(0, MAX_REFERENCES) },
  });
  stepPhoto(1);
}

export function endSimilar(): void {
  useSimilar.setState({ wanted: null });
  if (useEverything.getState().share !== null) toggleEverything(); // cancels the search
  closeCandidates();
}

/** Begins; then adds the chosen candidates and shows the next photograph. */
export function goOn(): void {
  const { wanted } = useSimilar.getState();
  if (!wanted) return void toggleSimilar();
  const { clip } = getState();
  const chosen = chosenCandidates();
  acceptChosen(false, wanted.label);
  if (chosenCandidates().length > 0) return; // there are too many objects
  const [first, ...others] = [...wanted.references, ...chosen.map((mask) => ({ path: clip!.path, mask }))];
  const references = [first!, ...others.slice(1 - MAX_REFERENCES)];
  useSimilar.setState({ wanted: { ...wanted, references } });
  closeCandidates();
  if (photoAfter(1)) return stepPhoto(1);
  endSimilar();
  announce("This is the last photograph.");
}

/** The masks of a class in other photographs. */
async function labelled(label: string): Promise<LabelledMask[]> {
  const { items, current } = usePhotos.getState();
  if (!label) return [];
  const others = items.filter(({ id, objects }) => id !== current && objects > 0);
  const works = await Promise.all(others.map(workOn));
  return works.flatMap((work) =>
    (work?.masks ?? []).flatMap(({ object: id, size: [height, width], counts }) => {
      const object = findObject(work!.scene, id);
      if (object?.label !== label) return [];
      return [{ path: work!.clip.path, mask: shownMask(object, { height, width, counts }) }];
    }),
  );
}

useStore.subscribe(({ session, clip }, before) => {
  const { wanted } = useSimilar.getState();
  if (!wanted || !session || session === before.session || !clip) return;
  if (!isPhoto(clip)) return endSimilar();
  if (wanted.references.some(({ path }) => path === clip.path) || isChoosing()) return;
  const search = (job: string, signal: AbortSignal) => findSimilar(clip.path, wanted.references, job, signal);
  void offer(search, `Nothing here looks like “${wanted.name}”.`);
});
