import { stringifyDocument } from "@urql/core";
import { ApiError, asApiError, networkError, serverError } from "./errors";
import { UploadVideoDocument, type UploadVideoMutation } from "./generated";
import { withJob } from "./jobs";
import type { Limits } from "./rest";
import { isInBrowser, send } from "./transport";
import { readClip, type Clip } from "./video";

/** Why the server would refuse a file; null if it would not. */
export function refuseFile(file: { name: string; size: number }, limits: Limits): string | null {
  const photoFormats = limits.photoFormats ?? [];
  if (!hasEnding(file.name, [...limits.formats, ...photoFormats])) {
    const kinds = photoFormats.length > 0 ? "video or photograph" : "video";
    const endings = [...limits.formats, ...photoFormats].map(dotted).join(", ");
    return `“${file.name}” is not a supported ${kinds}. Choose a file that ends in ${endings}.`;
  }
  if (file.size === 0) return `“${file.name}” is empty.`;
  if (file.size > limits.maxUploadMB * 1024 * 1024) {
    return `“${file.name}” has ${megabytes(file.size)} MB, at most ${limits.maxUploadMB} MB can be uploaded.`;
  }
  return null;
}

/** Why a file is not added to a list of photographs; null if it is. */
export function whyLeftOut(file: { name: string; size: number }, limits: Limits): string | null {
  const ending = /\.[^.]+$/.exec(file.name)?.[0].toLowerCase();
  if (file.size === 0) return "the file is empty";
  if (hasEnding(file.name, limits.formats)) return "a video is opened alone";
  if (!hasEnding(file.name, limits.photoFormats ?? [])) {
    if (ending && HEIC.includes(ending)) return 'HEIC needs pip install "sam2fast[images]" where the server runs';
    return ending ? `${ending} files are not read` : "not a photograph";
  }
  return refuseFile(file, limits) && `${megabytes(file.size)} MB, at most ${limits.maxUploadMB} MB can be uploaded`;
}

const HEIC = [".heic", ".heif"];
const megabytes = (size: number) => (size / 1024 / 1024).toFixed(1);

/** Whether a file's name ends in one of these, such as `.mp4`. */
export function hasEnding(name: string, endings: readonly string[]): boolean {
  return name.includes(".") && endings.some((ending) => name.toLowerCase().endsWith(dotted(ending)));
}

function dotted(ending: string): string {
  return `.${ending.replace(/^\./, "").toLowerCase()}`;
}
/** A part of a video, in seconds. */
export interface Part {
  readonly start: number;
  readonly seconds: number;
}

/** What is being done, and the share of it, 0 to 1. */
export type UploadProgress = (what: "uploading" | "converting", share: number) => void;

/**
 * Uploads a video or a photograph by GraphQL's multipart request, with XMLHttpRequest because fetch does not report upload progress.
 *
 * @param part what to keep; null for the beginning
 * @throws ApiError, or a DOMException named AbortError after `signal`
 */
export function uploadVideo(
  file: File,
  part: Part | null,
  progress: UploadProgress,
  signal: AbortSignal,
): Promise<Clip> {
  const form = new FormData();
  const operations = { query: stringifyDocument(UploadVideoDocument), variables: { file: null, ...part } };
  form.append("operations", JSON.stringify(operations));
  form.append("map", JSON.stringify({ file: ["variables.file"] }));
  form.append("file", file);
  let isSent = isInBrowser;
  const converting = (share: number) => isSent && progress("converting", share);
  const uploading = (share: number) => {
    isSent = share >= 1;
    progress(isSent ? "converting" : "uploading", isSent ? 0 : share);
  };
  return withJob((job) => sendForm(`/graphql?job=${job}`, form, uploading, signal), converting, signal);
}

async function sendForm(
  path: string,
  form: FormData,
  progress: (share: number) => void,
  signal: AbortSignal,
): Promise<Clip> {
  if (isInBrowser) {
    progress(1);
    const response = await send(path, { method: "POST", body: form, signal });
    return readAnswer(response.status, await response.text());
  }
  return new Promise((resolve, reject) => {
    const http = new XMLHttpRequest();
    http.open("POST", path);
    http.upload.onprogress = (event) => progress(event.total ? event.loaded / event.total : 0);
    http.onerror = () => reject(networkError());
    http.onabort = () => reject(new DOMException("The upload was cancelled.", "AbortError"));
    http.onload = () => {
      try {
        resolve(readAnswer(http.status, http.responseText));
      } catch (error) {
        reject(asApiError(error));
      }
    };
    signal.addEventListener("abort", () => http.abort(), { once: true });
    http.send(form);
  });
}

interface Answer {
  data?: UploadVideoMutation | null;
  errors?: { message: string; extensions?: { code?: string } }[];
  error?: { code: string; message: string };
}

function readAnswer(status: number, text: string): Clip {
  let answer: Answer;
  try {
    answer = JSON.parse(text) as Answer;
  } catch {
    throw new ApiError(
      "refused",
      status === 413 ? "The file is too large." : `The server answered with status ${status}.`,
    );
  }
  const refusal = answer.errors?.[0] ?? answer.error;
  if (refusal) throw serverError(refusal.message, "extensions" in refusal ? refusal.extensions?.code : undefined);
  if (!answer.data) throw new ApiError("refused", `The server answered with status ${status}.`);
  return readClip(answer.data.uploadVideo);
}
