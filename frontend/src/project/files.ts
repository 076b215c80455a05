import { asApiError } from "../api/errors";
import { readMaskFile } from "../api/rest";
import { mergeMasks, promptKey, type MaskEntry, type Masks } from "../masks/masks";
import { maskArea } from "../masks/rle";
import { adoptClasses } from "../state/classes";
import * as editing from "../state/editing";
import { counted } from "../scene/counted";
import { handleFailure } from "../state/failures";
import {
  addObject,
  firstPromptedFrame,
  labelObject,
  renameObject,
  setPrompt,
  NO_PROMPT,
  promptAt,
  findObject,
} from "../scene/scene";
import { getState, notify, setState } from "../state/store";
import { hasWork, loadProject, saveNow } from "./autosave";
import { parseProject, type Project } from "./project";
import { openClip } from "./session";

/** Opens a project file with its video; asks before it replaces other work. */
async function openProject(file: string): Promise<void> {
  const project = parseProject(file);
  await saveNow();
  if (!hasWork(await loadProject(project.clip.path))) return showProject(project);
  const onYes = () => void showProject(project);
  setState({ dialog: { ...replacing(`“${project.clip.name}”`), onYes } });
}

/** The question before a project replaces other work. */
export function replacing(what: string) {
  const text = `This browser has other work on ${what}. The project replaces it. This cannot be undone.`;
  return { title: "Replace your work?", text, no: "Keep it", yes: "Replace" };
}

async function showProject(project: Project): Promise<void> {
  adoptClasses(project.classes ?? []);
  if (!(await openClip(project.clip, project))) {
    const advice = `If this server does not have it, upload “${project.clip.name}”, then open the project again.`;
    return notify("error", `The project's video cannot be opened. ${advice}`);
  }
  const { clips } = getState();
  if (!clips.some(({ path }) => path === project.clip.path)) setState({ clips: [...clips, project.clip] });
}

/** Opens a project, or adds masks as new objects: COCO, a PNG for the current frame, or a ZIP of either. */
export async function openDataFile(file: File): Promise<void> {
  setState({ dialog: null });
  try {
    const text = /\.json$/i.test(file.name) ? await file.text() : "";
    if (text.includes('"sam2fast project"')) await openProject(text);
    else await importMasks(file);
  } catch (error) {
    const { failure, message } = asApiError(error);
    const advice = /\.png$/i.test(file.name)
      ? " If it is a photograph, open it by “Open photographs” under Videos."
      : "";
    if (failure === "refused") notify("error", `“${file.name}” is not read as masks: ${message}${advice}`);
    else handleFailure(error);
  }
}

async function importMasks(file: File): Promise<void> {
  const { session, frame } = getState();
  if (!session) return notify("error", `“${file.name}” is not imported: open what its masks belong to first.`);
  const objects = await readMaskFile(session.id, file, frame);
  if (getState().session !== session) return; // another video was opened
  let { scene, masks } = getState();
  if (firstPromptedFrame(scene) === null) scene = { objects: [] }; // without the empty object of a new video
  for (const { name, label, masks: found } of objects) {
    scene = addObject(scene);
    const { id } = scene.objects.at(-1)!;
    scene = labelObject(renameObject(scene, id, name), id, label);
    // The first mask is the prompt: the object can be tracked from it and corrected.
    const [first] = found;
    scene = setPrompt(scene, id, first!.frame, { ...NO_PROMPT, mask: first!.mask });
    const object = findObject(scene, id)!;
    const added: Masks = new Map(
      found.map(({ frame, mask }) => {
        const answerTo = frame === first!.frame ? promptKey(promptAt(object, frame)) : null;
        const entry: MaskEntry = { ...mask, area: maskArea(mask), trackedFrom: promptKey(object.prompts), answerTo };
        return [frame, new Map([[id, entry]])];
      }),
    );
    masks = mergeMasks(masks, added, new Set([id]));
  }
  editing.replaceAll(scene, masks);
  notify("info", `${counted(objects.length, "object")} imported from “${file.name}”.`);
}
