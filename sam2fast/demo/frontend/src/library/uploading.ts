import { create } from "zustand";
import { asApiError } from "../api/errors";
import { isHealthy } from "../api/rest";
import { hasEnding, refuseFile, uploadVideo } from "../api/upload";
import { located } from "../api/video";
import { addPhotos } from "../photos/list";
import { openClip } from "../project/session";
import { handleFailure } from "../state/failures";
import { announce, getState, notify, setState } from "../state/store";

export interface Upload {
  readonly name: string;
  /** 0 to 1; at 1 the video is being converted. */
  readonly share: number;
}

interface Uploading {
  upload: Upload | null;
  problem: string;
}

export const useUploading = create<Uploading>(() => ({ upload: null, problem: "" }));

const UPLOAD_REFUSED = "The server refused the upload: the file is too large, or not a video that it can read.";

let abort: AbortController | null = null;

/** Uploads one video and opens it, or adds photographs to their list. */
export async function upload(files: readonly File[]): Promise<void> {
  const { limits } = getState();
  const [file] = files;
  if (!file || !limits || useUploading.getState().upload) return;
  if (files.some(({ name }) => hasEnding(name, limits.photoFormats ?? []))) return addPhotos(files);
  setState({ dialog: "videos" });
  const refusal = files.length > 1 ? "Choose one video at a time." : refuseFile(file, limits);
  if (refusal) return useUploading.setState({ problem: refusal });

  const { signal } = (abort = new AbortController());
  const progress = (share: number) => useUploading.setState({ upload: { name: file.name, share } });
  useUploading.setState({ problem: "" });
  progress(0);
  try {
    const clip = await uploadVideo(file, progress, signal);
    const { clips } = getState();
    const named = await located({ ...clip, name: file.name });
    if (!clips.some(({ path }) => path === clip.path)) setState({ clips: [...clips, named] });
    // Whoever closes the dialog meanwhile works on another video.
    if (isWatched()) await openClip(named);
    else notify("info", `“${file.name}” is uploaded: open it under Videos.`);
  } catch (error) {
    if (signal.aborted) return announce("The upload is cancelled.");
    const { failure, message } = asApiError(error);
    // A server that refuses a file during the upload closes the connection, which browsers report as a lost connection.
    const isRefusal = failure === "network" && (await isHealthy());
    const problem = isRefusal ? UPLOAD_REFUSED : message;
    if (isWatched()) useUploading.setState({ problem });
    else notify("error", problem);
    if (failure === "network" && !isRefusal) handleFailure(error);
  } finally {
    useUploading.setState({ upload: null });
  }
}

const isWatched = () => getState().dialog === "videos";

export function cancelUpload(): void {
  abort?.abort();
}
