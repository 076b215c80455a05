import { BlobSource, Input, MATROSKA, MP4, QTFF, WEBM } from "mediabunny";
import { create } from "zustand";
import { asApiError } from "../api/errors";
import { isHealthy } from "../api/rest";
import { hasEnding, refuseFile, uploadVideo, type Part, type UploadProgress } from "../api/upload";
import { located } from "../api/video";
import { addPhotos } from "../photos/list";
import { openClip } from "../project/session";
import { handleFailure } from "../state/failures";
import { announce, getState, notify, setState } from "../state/store";

export interface Upload {
  readonly name: string;
  readonly what: "uploading" | "converting";
  /** 0 to 1. */
  readonly share: number;
}

/** A video of which a part is to be chosen. */
export interface Trimming {
  readonly file: File;
  /** Its length in seconds. */
  readonly seconds: number;
}

interface Uploading {
  upload: Upload | null;
  trimming: Trimming | null;
  problem: string;
}

export const useUploading = create<Uploading>(() => ({ upload: null, trimming: null, problem: "" }));

const ASKED_FROM = 10; // seconds: of shorter videos everything is used

const UPLOAD_REFUSED = "The server refused the upload: the file is too large, or not a video that it can read.";

let abort: AbortController | null = null;

/** Uploads one video and opens it; of a long one, after a part of it was chosen. Adds photographs to their list. */
export async function chooseUpload(files: readonly File[]): Promise<void> {
  const { limits } = getState();
  const [file] = files;
  if (!file) return;
  if (!limits) return notify("error", `“${file.name}” is not opened: the server has not answered yet.`);
  const { upload: running } = useUploading.getState();
  if (running) return notify("error", `“${file.name}” is not opened: “${running.name}” is being uploaded.`);
  if (files.some(({ name }) => hasEnding(name, limits.photoFormats ?? []))) return addPhotos(files);
  setState({ dialog: "videos" });
  const refusal = files.length > 1 ? "Choose one video at a time." : refuseFile(file, limits);
  if (refusal) return useUploading.setState({ problem: refusal });

  useUploading.setState({ problem: "", trimming: null });
  const seconds = await secondsOf(file);
  if (seconds !== null && seconds > Math.min(ASKED_FROM, limits.maxSeconds)) {
    useUploading.setState({ trimming: { file, seconds } });
  } else await upload(file, null);
}

/** The length of a video; null if this browser cannot read it. */
async function secondsOf(file: File): Promise<number | null> {
  const input = new Input({ source: new BlobSource(file), formats: [MP4, QTFF, MATROSKA, WEBM] });
  return input.computeDuration().catch(() => null);
}

/** Uploads a part of a video, or its beginning, and opens it. */
export async function upload(file: File, part: Part | null): Promise<void> {
  const { signal } = (abort = new AbortController());
  const progress: UploadProgress = (what, share) => useUploading.setState({ upload: { name: file.name, what, share } });
  useUploading.setState({ problem: "", trimming: null });
  progress("uploading", 0);
  try {
    const clip = await uploadVideo(file, part, progress, signal);
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

export function cancelTrimming(): void {
  useUploading.setState({ trimming: null });
}
