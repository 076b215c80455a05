import { stringifyDocument } from "@urql/core";
import { query } from "../api/client";
import { asApiError } from "../api/errors";
import { CloseSessionDocument, DefaultVideoDocument, GalleryDocument } from "../api/generated";
import { openSession } from "../api/models";
import { getLimits, getSession, renewSession, type Numbering } from "../api/rest";
import { send } from "../api/transport";
import { isPhoto, located, readClip, type Clip } from "../api/video";
import { counted } from "../scene/counted";
import { firstPromptedFrame } from "../scene/scene";
import { makeEarlyEdits } from "../state/editing";
import { handleFailure, onReconnected, onSessionLost } from "../state/failures";
import { announce, freshWork, getState, isTracking, notify, setState } from "../state/store";
import { forgetKnown, synchronise } from "../state/synchronise";
import { abandonTracking } from "../state/track";
import { isUnsaved, isUpload, loadProject, loadUploads, lastOpened, lockWork, saveNow } from "./autosave";
import { restoreWork, type Project } from "./project";

/** Opens videos, and keeps a session of the server for the open one. */

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
    if (getState().clip) return; // a project was opened meanwhile
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
  const gallery = await query(GalleryDocument, {});
  setState(({ clips }) => ({
    clips: [...gallery.videos.edges.map(({ node }) => readClip(node)), ...clips.filter(isUpload)],
  }));
}

const ELSEWHERE =
  "This is open in another tab. Changes here are not saved. To edit here, close the other tab and reload.";
const NO_GALLERY = "The gallery of this server is empty. Upload a video to begin.";

/**
 * Closes the current video and opens another one with the work that was saved for it.
 *
 * @param project opened instead of the saved work
 * @returns whether the video could be opened
 */
export async function openClip(chosen: Clip, project?: Project): Promise<boolean> {
  const opening = ++openings;
  await saveNow();
  const clip = await located(chosen);
  if (opening !== openings) return true; // another video was chosen
  closeSession();
  const { clip: before, early } = getState();
  const fresh = { ...freshWork(), ...(before?.path === clip.path && { early }) }; // clicks wait for what is sent again
  setState({ ...fresh, clip, session: null, phase: "opening", dialog: null, notice: null, playing: false });
  const isLocked = await lockWork(clip.path);
  if (opening !== openings) return true;
  setState({ elsewhere: !isLocked });
  if (!isLocked) notify("error", ELSEWHERE);
  const saved = await loadProject(clip.path);
  if (opening !== openings) return true;
  return startSession(clip, [project, saved]);
}

let openings = 0;

/** Starts a new session on the same video with the same work. */
export async function restart(): Promise<void> {
  const { clip, tracking, scene } = getState();
  if (!clip) return begin();
  void saveNow(); // before the session is closed: without one nothing is saved
  closeSession();
  setState({ playing: false, notice: null, ...(isTracking(tracking) && { tracking: { state: "failed" } }) });
  // A video that could not be opened has no work in the page yet.
  const saved = firstPromptedFrame(scene) === null ? await loadProject(clip.path) : null;
  if (getState().clip === clip) await startSession(clip, [saved]);
}

let starts = 0;

/** @param projects the first one whose number of frames is that of the video is opened */
async function startSession(clip: Clip, projects: readonly (Project | null | undefined)[]): Promise<boolean> {
  const start = ++starts;
  setState({ phase: "opening", session: null });
  let id: string | null = null;
  try {
    id = await openSession(clip.path, getState().strategy);
    const { fps, numFrames, width, height, source = null, numbering = null } = await getSession(id);
    if (start !== starts) {
      sendClose(id); // another video was chosen
      return true;
    }
    const found = projects.flatMap((project) => project ?? []);
    setState({
      ...found.map((project) => restoreWork(project, numFrames)).find(Boolean),
      clip: { ...clip, width, height },
      session: { id, fps: fps ?? 1, numFrames, source },
      phase: "ready",
    });
    forgetKnown();
    announce(
      isPhoto(clip)
        ? `${clip.name} is open. Click an object in the photograph.`
        : `${clip.name} is open, ${counted(numFrames, "frame")}. Click an object in the video.`,
    );
    if (found[0] && found[0].numFrames !== numFrames) {
      notify(
        "error",
        `The saved work is of a video of ${counted(found[0].numFrames, "frame")}; this one has ${numFrames}.`,
      );
    }
    if (numbering) notify("info", describeNumbering(clip.name, fps ?? 1, numbering));
    makeEarlyEdits();
    void synchronise();
    return true;
  } catch (error) {
    if (id) sendClose(id);
    if (start !== starts) return true;
    setState({ phase: "failed", problem: asApiError(error).message });
    if (asApiError(error).failure === "network") handleFailure(error);
    return false;
  }
}

function describeNumbering(name: string, fps: number, { repeated, dropped }: Numbering): string {
  const changes = [
    ...(repeated > 0 ? [`${counted(repeated, "frame")} of the file shown longer`] : []),
    ...(dropped > 0 ? [`${counted(dropped, "frame")} left out`] : []),
  ];
  const rate = `${Math.round(100 * fps) / 100} frames per second`;
  return `“${name}” is shown at a constant ${rate}, with ${changes.join(" and ")}. Frame numbers, also in files, are those of this rate.`;
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
    if (!session || phase !== "ready" || !connected || document.hidden) return;
    renewSession(session.id).catch((error: unknown) => handleFailure(error, session));
  }, RENEW_MS);
  window.addEventListener("pagehide", () => closeSession());
  window.addEventListener("beforeunload", (event) => {
    if (isUnsaved() || isTracking(getState().tracking)) event.preventDefault(); // the browser asks
  });
  onSessionLost(() => void resumeLost());
  onReconnected(() => void resume());
}

/** Starts a new session in place of a lost one, with the prompts and masks of the page. */
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
    await renewSession(session.id); // fails after a restart of the server
    notify("info", "The server answers again.");
    await synchronise();
  } catch (error) {
    handleFailure(error, session);
  }
}
