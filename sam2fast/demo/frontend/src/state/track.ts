import { mutate } from "../api/client";
import { CancelPropagateInVideoDocument } from "../api/generated";
import { propagate } from "../api/propagate";
import { getSession } from "../api/rest";
import { handleFailure } from "./failures";
import { firstPromptedFrame } from "./scene";
import { announce, changeMasks, getState, isTracking, notify, setState } from "./store";
import { isSynchronised, synchronise } from "./synchronise";

const PATIENCE_MS = 3000; // after a cancel, for the server to end its stream
const SPOKEN_SHARES = 4; // of the way, at each of which progress is read out

let abort: AbortController | null = null; // of the stream; none until it is asked for

/** Tracks all prompted objects through the whole video, from the first frame with a prompt. */
export async function track(): Promise<void> {
  const { session, phase, tracking, scene } = getState();
  const start = firstPromptedFrame(scene);
  if (!session || phase !== "ready" || isTracking(tracking) || start === null) return;
  abort = null;
  setState({ tracking: { state: "running", done: 0 }, playing: false, following: true, notice: null });
  await synchronise();
  if (getState().session !== session) return; // another video has been opened
  if (isCalledOff()) return endCalledOff();
  if (!isSynchronised()) return setState({ tracking: { state: "stale" } });

  abort = new AbortController();
  const frames = new Set<number>();
  try {
    setState({ downloaded: null }); // the masks are about to differ from the file's
    for await (const masks of propagate(session.id, start, abort.signal)) {
      if (getState().session !== session) return;
      frames.add(masks.frame);
      changeMasks((book) => book.setTracked(masks));
      showProgress(masks.frame, frames.size, session.numFrames);
    }
    await finish(session.id, frames.size === session.numFrames);
  } catch (error) {
    if (getState().session !== session) return;
    if (isCalledOff()) return endCalledOff();
    setState({ tracking: { state: "failed" } });
    handleFailure(error);
  }
}

/** Calls tracking off; the frames that are done keep their masks. */
export async function cancelTracking(): Promise<void> {
  const { session, tracking } = getState();
  if (!session || tracking.state !== "running") return;
  setState({ tracking: { state: "cancelling", done: tracking.done } });
  const running = abort;
  if (!running) return; // `track` still waits for the last clicks, and begins nothing after them
  setTimeout(() => running.abort(), PATIENCE_MS);
  try {
    await mutate(CancelPropagateInVideoDocument, { input: { sessionId: session.id } });
  } catch (error) {
    running.abort(); // the server notices that nobody listens
    handleFailure(error);
  }
}

/** Stops listening, as when another video is opened. */
export function abandonTracking(): void {
  abort?.abort();
}

function isCalledOff(): boolean {
  return getState().tracking.state === "cancelling";
}

function endCalledOff(): void {
  setState({ tracking: { state: "cancelled" } });
  announce("Tracking is cancelled. Frames that were done keep their masks.");
}

function showProgress(frame: number, done: number, total: number): void {
  const { tracking, following } = getState();
  if (!isTracking(tracking)) return;
  const quarter = Math.floor((SPOKEN_SHARES * done) / total);
  if (quarter > Math.floor((SPOKEN_SHARES * (done - 1)) / total)) announce(`Tracked ${done} of ${total} frames.`);
  setState({ tracking: { state: tracking.state as "running", done }, ...(following && { frame }) });
}

async function finish(sessionId: string, isWhole: boolean): Promise<void> {
  if (isCalledOff()) return endCalledOff();
  if (isWhole) {
    setState({ tracking: { state: "done" } });
    return announce("Tracking is finished.");
  }
  // The stream has no other way to tell that it broke off.
  setState({ tracking: { state: "failed" } });
  try {
    const { problem } = await getSession(sessionId);
    notify("error", problem ?? "Tracking ended before the video did. Track again to complete it.");
  } catch (error) {
    handleFailure(error);
  }
}
