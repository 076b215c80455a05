import { networkError, responseError } from "./errors";

export interface Limits {
  maxUploadMB: number;
  maxSeconds: number;
  formats: string[];
  maxSessions: number;
  model: string;
  imageSize: number;
}

export interface SessionFacts {
  fps: number;
  numFrames: number;
  width: number;
  height: number;
  secondsLeft: number;
  /** Why the last track failed; null if it did not. */
  problem?: string | null;
}

export const EXPORT_FORMATS = ["masks_png", "coco_rle", "overlay_mp4", "cutout"] as const;
export type ExportFormat = (typeof EXPORT_FORMATS)[number];

async function request(path: string, init?: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw networkError();
  }
  if (!response.ok) throw await responseError(response);
  return response;
}

async function json<T>(path: string, init?: RequestInit): Promise<T> {
  return (await (await request(path, init)).json()) as T;
}

const sessionPath = (id: string) => `/api/sessions/${encodeURIComponent(id)}`;

export const getLimits = () => json<Limits>("/api/limits");
export const getSession = (id: string) => json<SessionFacts>(sessionPath(id));
export const renewSession = (id: string) => json<unknown>(`${sessionPath(id)}/renew`, { method: "POST" });

/** Whether the server answers. */
export async function isHealthy(): Promise<boolean> {
  return request("/healthy", { cache: "no-store" }).then(
    () => true,
    () => false,
  );
}

/** A file of all tracked frames, and its name from the server. @throws ApiError */
export async function exportFile(
  id: string,
  format: ExportFormat,
  signal: AbortSignal,
): Promise<{ name: string; content: Blob }> {
  const response = await request(`${sessionPath(id)}/export?format=${format}`, { signal });
  const name = /filename="?([^";]+)"?/.exec(response.headers.get("Content-Disposition") ?? "")?.[1] ?? format;
  return { name, content: await response.blob() };
}
