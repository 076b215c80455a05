import { stringifyDocument } from "@urql/core";
import { query } from "../api/client";
import { asApiError } from "../api/errors";
import { CloseSessionDocument, DefaultVideoDocument, GalleryDocument } from "../api/generated";
import { openSession } from "../api/models";
import { getLimits, getSession, renewSession } from "../api/rest";
import { located, send } from "../api/transport";
import { readClip, type Clip } from "../api/video";
import { isUnsaved, loadProject, loadUploads, lastOpened, saveNow } from "../project/autosave";
import { restoreWork, type Project } from "../project/project";
import { handleFailure, onReconnected, onSessionLost } from "./failures";
import { firstPromptedFrame } from "./scene";
import { announce, freshWork, getState, isTracking, notify, setState } from "./store";
import { forgetKnown, synchronise } from "./synchronise";
import { abandonTracking } from "./track";

const RENEW_MS = 60_000;

/** Loads limits and gallery, and opens the video of the last visit, or else the default video. */
export async function begin(): Promise<void> {
  try {
    const [limits, gallery, uploads] = await Promise.all([getLimits(), query(GalleryDocument, {}), loadUploads()]);
    const clips = [
      ...gallery.videos.edges.map(({ node }) => readClip(node)),
      ...(await Promise.all(uploads.map(located))),
    ];
    setState({ limits, clips });
    const last = lastOpened();
    const clip = getState().clips.find(({ path }) => path === last);
    if (clip && (await openClip(clip))) return;
    if (gallery.videos.edges.length === 0) return setState({ phase: "failed", problem: NO_GALLERY, dialog: "videos" });
    const { defaultVideo } = await query(DefaultVideoDocument, {});
    await openClip(readClip(defaultVideo));
  } catch (error) {
    setState({ phase: "failed", problem: asApiError(error).message });
    handleFailure(error);
  }
}

/** Loads the gallery again; the videos may have changed on the server. */
export async function refreshGallery(): Promise<void> {
  const [gallery, uploads] = await Promise.all([query(GalleryDocument, {}), loadUploads()]);
  setState({ clips: [...gallery.videos.edges.map(({ node }) => readClip(node)), ...uploads] });
}

const NO_GALLERY = "The gallery of this server is empty. Upload a video to begin.";

/**
 * Closes the current video and opens another one with the work that was saved for it.
 *
 * @param project opened instead of the saved work
 * @returns whether the video could be opened
 */
export async function openClip(chosen: Clip, project?: Project): Promise<boolean> {
  await saveNow();
  const clip = await located(chosen);
  closeSession();
  setState({ ...freshWork(), clip, session: null, phase: "opening", dialog: null, notice: null, playing: false });
  const work = project ?? (await loadProject(clip.path));
  if (getState().clip !== clip) return true; // another video was chosen
  return startSession(clip, work);
}

/** Starts a new session on the same video with the same work. */
export async function restart(): Promise<void> {
  const { clip } = getState();
  if (!clip) return begin();
  closeSession();
  const { tracking, scene } = getState();
  setState({ playing: false, notice: null, ...(isTracking(tracking) && { tracking: { state: "failed" } }) });
  // A video that could not be opened has no work in the page yet.
  await startSession(clip, firstPromptedFrame(scene) === null ? await loadProject(clip.path) : null);
}

let starts = 0;

async function startSession(clip: Clip, project: Project | null): Promise<boolean> {
  const start = ++starts;
  forgetKnown();
  setState({ phase: "opening", session: null });
  try {
    const id = await openSession(clip.path, getState().strategy);
    const { fps, numFrames, width, height } = await getSession(id);
    if (start !== starts) {
      sendClose(id); // another video was chosen
      return true;
    }
    setState({
      ...(project && restoreWork(project, numFrames)),
      clip: { ...clip, width, height },
      session: { id, fps, numFrames },
      phase: "ready",
    });
    announce(`${clip.name} is open, ${numFrames} frames. Click an object in the video.`);
    void synchronise();
    return true;
  } catch (error) {
    if (start !== starts) return true;
    setState({ phase: "failed", problem: asApiError(error).message });
    if (asApiError(error).failure === "network") handleFailure(error);
    return false;
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
  void send("/graphql", {
    method: "POST",
    keepalive: true,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ query, variables: { input: { sessionId } } }),
  }).catch(() => undefined);
}

/** Renews the session while the page is visible, closes it with the page, and resumes a lost one. */
export function watchSession(): void {
  setInterval(() => {
    const { session, phase, connected } = getState();
    if (session && phase === "ready" && connected && !document.hidden) renewSession(session.id).catch(handleFailure);
  }, RENEW_MS);
  window.addEventListener("pagehide", () => closeSession());
  window.addEventListener("beforeunload", (event) => {
    if (isUnsaved() || isTracking(getState().tracking)) event.preventDefault(); // the browser asks
  });
  onSessionLost(() => void resumeLost());
  onReconnected(() => void resume());
}

/** Starts a session in place of a lost one; the page has all that it knew. */
async function resumeLost(): Promise<void> {
  if (getState().phase !== "ready") return; // it is being resumed already
  await restart();
  if (getState().phase === "ready") notify("info", "The session was lost and has been resumed with your work.");
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
