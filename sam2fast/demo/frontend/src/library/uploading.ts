import { create } from "zustand";
import { asApiError } from "../api/errors";
import { isHealthy } from "../api/rest";
import { located } from "../api/transport";
import { refuseFile, uploadVideo } from "../api/upload";
import { handleFailure } from "../state/failures";
import { openClip } from "../state/session";
import { announce, getState, setState } from "../state/store";

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

/** Uploads one video and opens it. */
export async function upload(files: readonly File[]): Promise<void> {
  const { limits } = getState();
  const [file] = files;
  if (!file || !limits || useUploading.getState().upload) return;
  setState({ dialog: "videos" });
  const refusal = files.length > 1 ? "Choose one video at a time." : refuseFile(file, limits);
  if (refusal) return useUploading.setState({ problem: refusal });

  abort = new AbortController();
  const progress = (share: number) => useUploading.setState({ upload: { name: file.name, share } });
  useUploading.setState({ problem: "" });
  progress(0);
  try {
    const clip = await uploadVideo(file, progress, abort.signal);
    announce("The video is uploaded.");
    const { clips } = getState();
    const named = await located({ ...clip, name: file.name });
    if (!clips.some(({ path }) => path === clip.path)) setState({ clips: [...clips, named] });
    await openClip(named);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") return announce("The upload is cancelled.");
    const { failure, message } = asApiError(error);
    // A server that refuses a file during the upload closes the connection, which browsers report as a lost connection.
    const isRefusal = failure === "network" && (await isHealthy());
    useUploading.setState({ problem: isRefusal ? UPLOAD_REFUSED : message });
    if (failure === "network" && !isRefusal) handleFailure(error);
  } finally {
    useUploading.setState({ upload: null });
  }
}

export function cancelUpload(): void {
  abort?.abort();
}
