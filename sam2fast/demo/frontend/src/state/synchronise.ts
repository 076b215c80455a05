import { mutate } from "../api/client";
import { asApiError } from "../api/errors";
import {
  AddPointsDocument,
  ClearPointsInFrameDocument,
  ClearPointsInVideoDocument,
  RemoveObjectDocument,
} from "../api/generated";
import { readFrameMasks } from "../api/video";
import type { FrameMasks } from "../masks/maskStore";
import { applyCommand, difference, encodePrompt, withPromptsOf, type Command } from "./commands";
import { handleFailure } from "./failures";
import { withoutRefused } from "./history";
import { findObject, type Scene } from "./scene";
import { announce, changeMasks, getState, notify, setState } from "./store";

// One request at a time: SAM 2 refines a mask by the clicks in their order. Clicks made during a request are part of
// the next one.
let known: Scene = { objects: [] };
let running: Promise<void> | null = null;

/** Resets the known scene for a new session. */
export function forgetKnown(): void {
  known = { objects: [] };
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

async function sendChanges(): Promise<void> {
  for (;;) {
    const { session, phase, scene, connected } = getState();
    const command = difference(known, scene)[0];
    if (!command || !session || phase !== "ready" || !connected) return;
    setState({ pending: true });
    try {
      const answers = await send(session.id, command);
      if (getState().session !== session) continue; // another video has been opened
      known = applyCommand(known, command);
      changeMasks((maskStore) => {
        if (command.kind === "clearVideo") maskStore.clear();
        if (command.kind === "removeObject") maskStore.removeObject(command.id);
        for (const answer of answers) maskStore.set(answer);
      });
      announceMask(command);
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

async function send(sessionId: string, command: Command): Promise<FrameMasks[]> {
  switch (command.kind) {
    case "clearVideo":
      await mutate(ClearPointsInVideoDocument, { input: { sessionId } });
      return [];
    case "removeObject": {
      const { removeObject } = await mutate(RemoveObjectDocument, { input: { sessionId, objectId: command.id } });
      return removeObject.map(readFrameMasks);
    }
    case "clearFrame": {
      const input = { sessionId, objectId: command.id, frameIndex: command.frame };
      return [readFrameMasks((await mutate(ClearPointsInFrameDocument, { input })).clearPointsInFrame)];
    }
    case "prompt": {
      const target = { sessionId, objectId: command.id, frameIndex: command.frame };
      const input = { ...target, ...encodePrompt(command.prompt), clearOldPoints: true };
      return [readFrameMasks((await mutate(AddPointsDocument, { input })).addPoints)];
    }
  }
}

/** Reverts the scene and its history to the prompts that the server has accepted. */
function revertRefused(): void {
  const { scene, history } = getState();
  const isKnown = (step: Scene) => difference(known, step).length === 0;
  setState({ scene: withPromptsOf(scene, known), history: withoutRefused(history, isKnown) });
}

function announceMask(command: Command): void {
  if (command.kind !== "prompt") return;
  const { maskStore, scene } = getState();
  const mask = maskStore.at(command.frame).get(command.id);
  const name = findObject(scene, command.id)?.name ?? "The object";
  if (!mask?.area) return announce(`${name}: nothing found on frame ${command.frame + 1}.`);
  const percent = (100 * mask.area) / (mask.width * mask.height);
  announce(`${name}: the mask covers ${percent.toFixed(1)} percent of frame ${command.frame + 1}.`);
}
