import { mutate } from "./client";
import { StartSessionDocument } from "./generated";
import { json, request } from "./rest";

export interface DownloadStatus {
  readonly state: "missing" | "downloading" | "ready" | "failed";
  /** Of the bytes that have arrived, 0 to 1. */
  readonly share: number;
  /** Why the download failed. */
  readonly problem: string | null;
}

export interface OfferedModel extends DownloadStatus {
  readonly name: string;
  readonly title: string;
  /** Of its weights; 0 if unknown. */
  readonly megabytes: number;
  readonly about: string;
}

export interface Models {
  readonly current: string;
  readonly device: string;
  readonly imageSize: number;
  /** Whether this page may change the model. */
  readonly mayChange: boolean;
  /** Why the server downloads nothing; null if it does. */
  readonly offline: string | null;
  readonly models: readonly OfferedModel[];
  readonly strategies: readonly { name: string; about: string }[];
  /** The strategy of sessions that name none. */
  readonly strategy: string;
}

const post = async (path: string) => void (await request(path, { method: "POST" }));

/** @throws ApiError, also of servers with one model only */
export const getModels = () => json<Models>("/api/models");
export const downloadModel = (name: string) => post(`/api/models/${encodeURIComponent(name)}/download`);

/** Replaces the model of all pages; their sessions end. @throws ApiError */
export const changeModel = (name: string) => post(`/api/models/${encodeURIComponent(name)}/use`);

export interface RealClips extends DownloadStatus {
  readonly megabytes: number;
  readonly isOffline: boolean;
}

export const getRealClips = () => json<RealClips>("/api/real_clips");
export const downloadRealClips = () => post("/api/real_clips");

/** Starts a session; returns its id. @param strategy null for the server's @throws ApiError */
export async function openSession(path: string, strategy: string | null): Promise<string> {
  if (strategy === null) return (await mutate(StartSessionDocument, { input: { path } })).startSession.sessionId;
  const { sessionId } = await json<{ sessionId: string }>("/api/sessions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ path, strategy }),
  });
  return sessionId;
}
