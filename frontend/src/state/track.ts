import { mutate } from "../api/client";
import { CancelPropagateInVideoDocument } from "../api/generated";
import { propagate, type Track } from "../api/propagate";
import { getSession } from "../api/rest";
import { promptKey, withTracked } from "../masks/masks";
import { counted } from "../scene/counted";
import type { Scene } from "../scene/scene";
import { handleFailure } from "./failures";
import { makeTrack, trackedState } from "./plan";
import { announce, getState, isTracking, notify, setState, type Session } from "./store";
import { isSynchronised, synchronise } from "./synchronise";

const CANCEL_TIMEOUT_MS = 3000; // after a cancel, for the server to end its stream
const ANNOUNCEMENTS = 4; // of progress to screen readers, during one track
const RATE_FRAMES = 16; // the newest, from which the rate is measured

let abort: AbortController | null = null; // of the stream; null until it is requested

/** Tracks what the plan says. */
export async function track(): Promise<void> {
  const { session, phase, tracking, plan, scene, masks, frame } = getState();
  if (!session || phase !== "ready" || isTracking(tracking)) return;
  const request = makeTrack(plan, scene, masks, frame, session.numFrames);
  if (!request)
    return plan.onlyChanged ? notify("info", "Nothing has changed there since the last tracking.") : undefined;
  abort = null;
  const running = { state: "running", done: 0, total: request.total, framesPerSecond: null } as const;
  setState({ tracking: running, playing: false, following: true, notice: null });
  announce(`Tracking ${counted(request.total, "frame")}.`);
  await synchronise();
  if (getState().session !== session) return; // another video was opened
  if (isCancelling()) return endCancelled();
  if (!isSynchronised()) return setState({ tracking });

  abort = new AbortController();
  try {
    const isComplete = await receive(session, request, abort.signal);
    if (getState().session !== session) return;
    await finish(session, isComplete);
  } catch (error) {
    if (getState().session !== session) return;
    if (isCancelling()) endCancelled();
    else {
      setState({ tracking: { state: "failed" } });
      handleFailure(error);
    }
  }
  void synchronise(); // sends the clicks that were made meanwhile
}

/** Stores the masks of the stream; returns whether all frames came. */
async function receive(session: Session, request: Track, signal: AbortSignal): Promise<boolean> {
  const { scene } = getState();
  const frames = new Set<number>();
  const times = [performance.now()];
  for await (const found of propagate(session.id, request, signal)) {
    if (getState().session !== session) return false;
    if (isCancelling()) continue; // prompts may have changed
    frames.add(found.frame);
    setState(({ masks }) => ({ masks: withTracked(masks, found, sourcesOn(scene, found.frame)) }));
    times.push(performance.now());
    if (times.length > RATE_FRAMES) times.shift();
    const seconds = (times.at(-1)! - times[0]!) / 1000;
    showProgress(found.frame, frames.size, request.total, (times.length - 1) / seconds);
  }
  return frames.size === request.total;
}

function sourcesOn(scene: Scene, frame: number): Map<number, { all: string; here: string | null }> {
  return new Map(
    scene.objects.map(({ id, prompts }) => {
      const here = prompts[frame];
      return [id, { all: promptKey(prompts), here: here ? promptKey(here) : null }];
    }),
  );
}

/** Cancels tracking; finished frames keep their masks. */
export async function cancelTracking(): Promise<void> {
  const { session, tracking } = getState();
  if (!session || tracking.state !== "running") return;
  setState({ tracking: { ...tracking, state: "cancelling" } });
  const running = abort;
  if (!running) return; // `track` still waits for the last clicks and starts nothing after them
  setTimeout(() => running.abort(), CANCEL_TIMEOUT_MS);
  try {
    await mutate(CancelPropagateInVideoDocument, { input: { sessionId: session.id } });
  } catch (error) {
    running.abort(); // the server notices the closed connection
    handleFailure(error, session);
  }
}

/** Closes the stream, for example when another video is opened. */
export function abandonTracking(): void {
  abort?.abort();
}

function isCancelling(): boolean {
  return getState().tracking.state === "cancelling";
}

function endCancelled(): void {
  setState({ tracking: { state: "cancelled" } });
  announce("Tracking is cancelled. Finished frames keep their masks.");
}

function showProgress(frame: number, done: number, total: number, framesPerSecond: number): void {
  const { tracking, following } = getState();
  if (!isTracking(tracking)) return;
  const quarter = Math.floor((ANNOUNCEMENTS * done) / total);
  if (quarter > Math.floor((ANNOUNCEMENTS * (done - 1)) / total))
    announce(`Tracked ${done} of ${counted(total, "frame")}.`);
  setState({ tracking: { state: "running", done, total, framesPerSecond }, ...(following && { frame }) });
}

async function finish(session: Session, isComplete: boolean): Promise<void> {
  if (isCancelling()) return endCancelled();
  if (isComplete) {
    const { scene, masks } = getState();
    setState({ tracking: { state: trackedState(scene, masks, session.numFrames) } });
    return announce("Tracking is finished.");
  }
  // The stream has no error message: it only ends early.
  setState({ tracking: { state: "failed" } });
  try {
    const { problem } = await getSession(session.id);
    if (getState().session !== session) return;
    notify("error", problem ?? "Tracking stopped before the end of the video. Track again to complete it.");
  } catch (error) {
    handleFailure(error, session);
  }
}
