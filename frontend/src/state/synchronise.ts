import { mutate } from "../api/client";
import { asApiError } from "../api/errors";
import {
  AddPointsDocument,
  ClearPointsInFrameDocument,
  ClearPointsInVideoDocument,
  RemoveObjectDocument,
} from "../api/generated";
import { addMask } from "../api/rest";
import { readFrameMasks } from "../api/video";
import { masksAt, mergeMasks, NO_MASKS, promptKey, withAnswer, type FrameMasks, type Masks } from "../masks/masks";
import type { Mask } from "../masks/rle";
import { findObject, promptedFrames, type Prompt, type Scene } from "../scene/scene";
import { applyCommand, changedObjects, difference, encodePrompt, withPromptsOf, type Command } from "./commands";
import { handleFailure } from "./failures";
import { withoutRefused } from "./history";
import { trackedState } from "./plan";
import { announce, getState, isTracking, notify, setState, type Step } from "./store";

// One request at a time: SAM 2 refines a mask by the clicks in their order. Clicks made during a request are part of
// the next one.
let known: Scene = { objects: [] };
/** The masks with which the session began. The server does not have the tracked ones. */
let restored: Masks = NO_MASKS;
let running: Promise<void> | null = null;

/** Resets the known scene for a new session, and remembers the page's masks. */
export function forgetKnown(): void {
  known = { objects: [] };
  restored = getState().masks;
}

/** Sends the server all changes; resolves when it has all, or when a request has failed. */
export function synchronise(): Promise<void> {
  running ??= sendChanges().finally(() => {
    running = null;
    setState({ pending: false });
  });
  return running;
}

/** Whether the server has all prompts of the page. */
export function isSynchronised(): boolean {
  return difference(known, getState().scene).length === 0;
}

/** Whether a scene has the server's prompts and at most further points and boxes, which can wait for a track's end. */
export function onlyAddsPrompts(scene: Scene): boolean {
  return difference(known, scene, answerOf).every(({ kind }) => kind === "prompt");
}

/** The page's mask that answers a prompt; after undo and in a new session the server lacks it. */
function answerOf(id: number, frame: number, prompt: Prompt): Mask | null {
  const entry = masksAt(getState().masks, frame).get(id);
  if (!entry || entry.area === 0 || entry.answerTo !== promptKey(prompt)) return null;
  return { height: entry.height, width: entry.width, counts: entry.counts };
}

async function sendChanges(): Promise<void> {
  for (;;) {
    const { session, phase, scene, connected } = getState();
    const command = difference(known, scene, answerOf)[0];
    if (!command || !session || phase !== "ready" || !connected) return;
    setState({ pending: true });
    try {
      const answer = await send(session.id, command);
      if (getState().session !== session) continue; // another video has been opened
      known = applyCommand(known, command);
      if (command.kind === "prompt" && answer) keepAnswer(command.id, command.prompt, answer);
    } catch (error) {
      if (getState().session !== session) continue;
      const { failure, message } = asApiError(error);
      if (!handleFailure(error)) revertRefused();
      else if (failure === "busy")
        notify("error", `${message} Your change is kept and sent again with the next click.`);
      return;
    }
  }
}

/** Returns the masks that answer a prompt. Edits remove masks themselves, so that undo can restore them. */
async function send(sessionId: string, command: Command): Promise<FrameMasks | null> {
  switch (command.kind) {
    case "clearVideo":
      await mutate(ClearPointsInVideoDocument, { input: { sessionId } });
      return null;
    case "removeObject":
      await mutate(RemoveObjectDocument, { input: { sessionId, objectId: command.id } });
      return null;
    case "clearFrame": {
      const input = { sessionId, objectId: command.id, frameIndex: command.frame };
      await mutate(ClearPointsInFrameDocument, { input });
      return null;
    }
    case "mask":
      await addMask(sessionId, command.id, command.frame, command.mask);
      return null;
    case "prompt": {
      const target = { sessionId, objectId: command.id, frameIndex: command.frame };
      const mask = restoredAt(command.id, command.frame);
      if (mask) await addMask(sessionId, command.id, command.frame, mask); // which the prompt corrects
      const input = { ...target, ...encodePrompt(command.prompt), clearOldPoints: true };
      return readFrameMasks((await mutate(AddPointsDocument, { input })).addPoints);
    }
  }
}

/** The mask that an earlier session tracked, if the server has neither the mask nor a prompt on the frame. */
function restoredAt(id: number, frame: number): Mask | null {
  const entry = masksAt(getState().masks, frame).get(id);
  if (!entry || entry.trackedFrom === null || entry.area === 0 || entry !== masksAt(restored, frame).get(id))
    return null;
  return findObject(known, id)?.prompts[frame] ? null : entry;
}

function keepAnswer(id: number, prompt: Prompt, { frame, masks: found }: FrameMasks): void {
  const mask = found.get(id);
  const { masks, scene } = getState();
  // The object may have been removed meanwhile, or the prompt; or the page has another prompt's mask, as after undo.
  const wanted = findObject(scene, id)?.prompts[frame];
  if (!mask || !wanted || answerOf(id, frame, wanted)) return;
  setState({ masks: withAnswer(masks, frame, id, mask, promptKey(prompt)) });
  announceMask(id, frame);
}

/** Reverts scene, masks and history to the prompts that the server has accepted. */
function revertRefused(): void {
  const { scene, masks, history, session, tracking } = getState();
  const isKnown = (step: Step) => difference(known, step.scene).length === 0;
  const accepted = history.future.find(isKnown) ?? [...history.past].reverse().find(isKnown);
  const removed = known.objects
    .filter((object) => promptedFrames(object).length > 0 && !findObject(scene, object.id))
    .flatMap(({ id }) => findObject(accepted?.scene ?? scene, id) ?? []);
  const objects = [...scene.objects, ...removed].sort((a, b) => a.id - b.id);
  const reverted = withPromptsOf({ objects }, known);
  const changed = changedObjects(scene, reverted);
  let restored = mergeMasks(masks, accepted?.masks ?? masks, changed);
  for (const { id, prompts } of reverted.objects) {
    if (!changed.has(id)) continue;
    for (const [frame, prompt] of Object.entries(prompts)) {
      const answer = answerOf(id, Number(frame), prompt); // may have come after the step
      if (answer) restored = withAnswer(restored, Number(frame), id, answer, promptKey(prompt));
    }
  }
  setState({
    scene: reverted,
    masks: restored,
    history: withoutRefused(history, isKnown),
    ...(!isTracking(tracking) && { tracking: { state: trackedState(reverted, restored, session!.numFrames) } }),
  });
}

function announceMask(id: number, frame: number): void {
  const { masks, scene } = getState();
  const mask = masksAt(masks, frame).get(id);
  const name = findObject(scene, id)?.name ?? "The object";
  const where = getState().session?.numFrames === 1 ? "the image" : `frame ${frame + 1}`;
  if (!mask?.area) return announce(`${name}: nothing found on ${where}.`);
  const percent = (100 * mask.area) / (mask.width * mask.height);
  announce(`${name}: the mask covers ${percent.toFixed(1)} percent of ${where}.`);
}
