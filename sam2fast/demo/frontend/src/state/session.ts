import { stringifyDocument } from "@urql/core";
import { mutate, query } from "../api/client";
import { asApiError } from "../api/errors";
import { CloseSessionDocument, DefaultVideoDocument, GalleryDocument, StartSessionDocument } from "../api/generated";
import { getLimits, getSession, renewSession } from "../api/rest";
import { readClip, type Clip } from "../api/video";
import { handleFailure, onReconnected } from "./failures";
import { announce, freshWork, getState, notify, setState } from "./store";
import { forgetKnown, synchronise } from "./synchronise";
import { abandonTracking } from "./track";

const RENEW_MS = 60_000;

/** Loads limits and gallery, and opens the default video. */
export async function begin(): Promise<void> {
  try {
    const [limits, gallery] = await Promise.all([getLimits(), query(GalleryDocument, {})]);
    setState({ limits, clips: gallery.videos.edges.map(({ node }) => readClip(node)) });
    if (getState().clips.length === 0) return setState({ phase: "failed", problem: NO_GALLERY, dialog: "videos" });
    const { defaultVideo } = await query(DefaultVideoDocument, {});
    await openClip(readClip(defaultVideo));
  } catch (error) {
    setState({ phase: "failed", problem: asApiError(error).message });
    handleFailure(error);
  }
}

const NO_GALLERY = "The gallery of this server is empty. Upload a video to begin.";

/** Closes the current video and opens another one without prompts. */
export async function openClip(clip: Clip): Promise<void> {
  closeSession();
  setState({ ...freshWork(), clip, dialog: null, notice: null, playing: false });
  await startSession(clip);
}

/** Starts a new session on the same video with the same prompts. */
export async function restart(): Promise<void> {
  const { clip } = getState();
  if (!clip) return begin();
  closeSession();
  const { maskStore, scene, history, active, frame } = { ...freshWork(), ...pickWork() };
  setState({ ...freshWork(), maskStore, scene, history, active, frame, notice: null });
  await startSession(clip);
}

function pickWork() {
  const { scene, history, active, frame } = getState();
  return { scene, history, active, frame };
}

let starts = 0;

async function startSession(clip: Clip): Promise<void> {
  const start = ++starts;
  forgetKnown();
  setState({ phase: "opening", session: null });
  try {
    const { startSession } = await mutate(StartSessionDocument, { input: { path: clip.path } });
    const { fps, numFrames, width, height } = await getSession(startSession.sessionId);
    if (start !== starts) return sendClose(startSession.sessionId); // another video was chosen
    setState({
      clip: { ...clip, width, height },
      session: { id: startSession.sessionId, fps, numFrames },
      phase: "ready",
    });
    announce(`${clip.name} is open, ${numFrames} frames. Click an object in the video.`);
    void synchronise();
  } catch (error) {
    if (start !== starts) return;
    setState({ phase: "failed", problem: asApiError(error).message });
    if (asApiError(error).failure === "network") handleFailure(error);
  }
}

function closeSession(): void {
  abandonTracking();
  const { session } = getState();
  if (session) sendClose(session.id);
}

/** Sent with keepalive, because the page may be closing. The answer is ignored: open sessions expire. */
function sendClose(sessionId: string): void {
  const query = stringifyDocument(CloseSessionDocument);
  void fetch("/graphql", {
    method: "POST",
    keepalive: true,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ query, variables: { input: { sessionId } } }),
  }).catch(() => undefined);
}

/** Renews the session while the page is visible, closes it with the page, resumes after a lost connection. */
export function watchSession(): void {
  setInterval(() => {
    const { session, phase, connected } = getState();
    if (session && phase === "ready" && connected && !document.hidden) renewSession(session.id).catch(handleFailure);
  }, RENEW_MS);
  window.addEventListener("pagehide", () => closeSession());
  onReconnected(() => void resume());
}

async function resume(): Promise<void> {
  const { session, phase } = getState();
  if (phase === "failed") return restart();
  if (!session || phase !== "ready") return;
  try {
    await renewSession(session.id); // a restarted server does not know it
    notify("info", "The server answers again.");
    await synchronise();
  } catch (error) {
    handleFailure(error);
  }
}
