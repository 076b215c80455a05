import { mutate } from "../api/client";
import { CancelPropagateInVideoDocument } from "../api/generated";
import { propagate } from "../api/propagate";
import { getSession } from "../api/rest";
import { handleFailure } from "./failures";
import { firstPromptedFrame } from "./scene";
import { announce, changeMasks, getState, isTracking, notify, setState } from "./store";
import { isSynchronised, synchronise } from "./synchronise";

const CANCEL_TIMEOUT_MS = 3000; // after a cancel, for the server to end its stream
const ANNOUNCEMENTS = 4; // of progress to screen readers, during one track

let abort: AbortController | null = null; // of the stream; null until it is requested

/** Tracks all prompted objects through the whole video, from the first frame with a prompt. */
export async function track(): Promise<void> {
  const { session, phase, tracking, scene } = getState();
  const start = firstPromptedFrame(scene);
  if (!session || phase !== "ready" || isTracking(tracking) || start === null) return;
  abort = null;
  setState({ tracking: { state: "running", done: 0 }, playing: false, following: true, notice: null });
  await synchronise();
  if (getState().session !== session) return; // another video was opened
  if (isCancelling()) return endCancelled();
  if (!isSynchronised()) return setState({ tracking: { state: "stale" } });

  abort = new AbortController();
  const frames = new Set<number>();
  try {
    setState({ downloaded: null }); // the masks will differ from the downloaded file
    for await (const masks of propagate(session.id, start, abort.signal)) {
      if (getState().session !== session) return;
      frames.add(masks.frame);
      changeMasks((maskStore) => maskStore.setTracked(masks));
      showProgress(masks.frame, frames.size, session.numFrames);
    }
    await finish(session.id, frames.size === session.numFrames);
  } catch (error) {
    if (getState().session !== session) return;
    if (isCancelling()) return endCancelled();
    setState({ tracking: { state: "failed" } });
    handleFailure(error);
  }
}

/** Cancels tracking; finished frames keep their masks. */
export async function cancelTracking(): Promise<void> {
  const { session, tracking } = getState();
  if (!session || tracking.state !== "running") return;
  setState({ tracking: { state: "cancelling", done: tracking.done } });
  const running = abort;
  if (!running) return; // `track` still waits for the last clicks and starts nothing after them
  setTimeout(() => running.abort(), CANCEL_TIMEOUT_MS);
  try {
    await mutate(CancelPropagateInVideoDocument, { input: { sessionId: session.id } });
  } catch (error) {
    running.abort(); // the server notices the closed connection
    handleFailure(error);
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

function showProgress(frame: number, done: number, total: number): void {
  const { tracking, following } = getState();
  if (!isTracking(tracking)) return;
  const quarter = Math.floor((ANNOUNCEMENTS * done) / total);
  if (quarter > Math.floor((ANNOUNCEMENTS * (done - 1)) / total)) announce(`Tracked ${done} of ${total} frames.`);
  setState({ tracking: { state: tracking.state as "running", done }, ...(following && { frame }) });
}

async function finish(sessionId: string, isComplete: boolean): Promise<void> {
  if (isCancelling()) return endCancelled();
  if (isComplete) {
    setState({ tracking: { state: "done" } });
    return announce("Tracking is finished.");
  }
  // The stream has no error message: it only ends early.
  setState({ tracking: { state: "failed" } });
  try {
    const { problem } = await getSession(sessionId);
    notify("error", problem ?? "Tracking stopped before the end of the video. Track again to complete it.");
  } catch (error) {
    handleFailure(error);
  }
}
