import { serverError } from "../api/errors";
import type { Call, FromWorker, Loading, ToWorker } from "./calls";
import { readVideo } from "./files";

/** Sends the page's requests to the worker that answers them, as if it were a server. */

interface Waiting {
  readonly resolve: (response: Response) => void;
  readonly reject: (error: unknown) => void;
  /** Ends the watch for an abort. */
  readonly release: () => void;
  body: ReadableStreamDefaultController<Uint8Array> | null;
}

const waiting = new Map<number, Waiting>();
const addresses = new Map<string, string>(); // of videos, by path
const root = new URL(".", document.baseURI).href;
const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
const post = (message: ToWorker) => worker.postMessage(message);
let calls = 0;
let problem: string | null = null; // of the worker, which answers no more

/** Starts to load the model. @param folder relative to the page, with a slash at the end */
export function start(folder: string, onLoading: (loading: Loading) => void): void {
  worker.addEventListener("message", ({ data }: MessageEvent<FromWorker>) => {
    if (data.kind === "loading") onLoading(data);
    else receive(data);
  });
  worker.addEventListener("error", ({ message }) => {
    problem = `The model has stopped: ${message || "its script cannot be loaded"}. Reload the page.`;
    onLoading({ share: 0, problem, engine: null });
    for (const id of [...waiting.keys()]) receive({ kind: "end", id, problem });
  });
  post({ kind: "start", root, folder: new URL(folder, root).href });
}

export async function send(path: string, init: RequestInit = {}): Promise<Response> {
  const { signal } = init;
  signal?.throwIfAborted();
  if (problem !== null) throw serverError(problem);
  const id = (calls += 1);
  const cancel = () => {
    post({ kind: "cancel", id });
    receive({ kind: "end", id, problem: "" }, signal?.reason);
  };
  const release = () => signal?.removeEventListener("abort", cancel);
  const response = new Promise<Response>((resolve, reject) =>
    waiting.set(id, { resolve, reject, release, body: null }),
  );
  signal?.addEventListener("abort", cancel);
  post({ kind: "call", id, call: callOf(path, init.body) });
  return response;
}

function callOf(path: string, body: RequestInit["body"]): Call {
  if (!(body instanceof FormData)) return { path, body: (body as string | Blob | undefined) ?? null, file: null };
  return { path, body: body.get("operations"), file: body.get("file") as File };
}

function receive(message: Exclude<FromWorker, { kind: "loading" }>, reason?: unknown): void {
  const entry = waiting.get(message.id);
  if (!entry) return;
  switch (message.kind) {
    case "answer": {
      const { id, status, type, content } = message;
      const headers: Record<string, string> = { "Content-Type": type };
      if (content instanceof Blob) headers["Content-Length"] = String(content.size);
      if (content !== null) forget(id);
      const stream = () =>
        new ReadableStream<Uint8Array>({
          start: (controller) => void (entry.body = controller),
          cancel: () => {
            forget(id);
            post({ kind: "cancel", id });
          },
        });
      return entry.resolve(new Response(content ?? stream(), { status, headers }));
    }
    case "chunk":
      return entry.body?.enqueue(new TextEncoder().encode(message.text));
    case "end": {
      forget(message.id);
      const { problem } = message;
      if (problem === null) return entry.body?.close();
      const error = reason ?? serverError(problem);
      entry.body?.error(error);
      return entry.reject(error);
    }
  }
}

function forget(id: number): void {
  waiting.get(id)?.release();
  waiting.delete(id);
}

/** The address of a video in this page: file servers without ranges cannot seek. Null if it cannot be read. */
export async function addressOf(path: string): Promise<string | null> {
  const known = addresses.get(path);
  if (known) return known;
  const file = await readVideo(root, path).catch(() => null);
  if (!file) return null; // opening it says why
  const address = URL.createObjectURL(file);
  addresses.set(path, address);
  return address;
}
