/// <reference lib="webworker" />
import type { FromWorker, Loading, ToWorker } from "./calls";
import type { Settings } from "./files";
import { loadModel, type Engine } from "./runtime";
import { LocalServer } from "./server";

/** The server of a page that has none: one worker, which the page sends its requests to. */

const send = (message: FromWorker) => postMessage(message);
const running = new Map<number, AbortController>(); // by call
let server: Promise<LocalServer>;

addEventListener("message", ({ data }: MessageEvent<ToWorker>) => {
  if (data.kind === "start") server = start(data.root, data.folder);
  else if (data.kind === "cancel") running.get(data.id)?.abort();
  else void answer(data.id, data.call);
});

async function start(root: string, folder: string): Promise<LocalServer> {
  let state: Loading = { share: 0, problem: null, engine: null };
  const report = (change: Partial<Loading>) => {
    state = { ...state, ...change };
    send({ kind: "loading", ...state });
  };
  const chosen = (engine: Engine) => {
    if (engine.problem !== null) console.warn(`WebGPU has failed, WebAssembly runs the model: ${engine.problem}`);
    report({ engine });
  };
  const loading = loadModel(folder, (share) => report({ share }), chosen);
  loading.then(
    () => report({ share: 1 }),
    (error: unknown) => report({ share: 0, problem: `The model cannot be loaded: ${messageOf(error)}.` }),
  );
  try {
    const response = await fetch(`${folder}settings.json`);
    if (!response.ok) throw new Error(`settings.json has the status ${response.status}`);
    return new LocalServer(root, (await response.json()) as Settings, loading);
  } catch (error) {
    const problem = `The page's settings cannot be loaded: ${messageOf(error)}.`;
    report({ problem });
    throw new Error(problem, { cause: error });
  }
}

async function answer(id: number, call: Parameters<LocalServer["answer"]>[0]): Promise<void> {
  const abort = new AbortController();
  running.set(id, abort);
  try {
    const { status, type, body } = await (await server).answer(call, abort.signal);
    if (typeof body === "string" || body instanceof Blob)
      return send({ kind: "answer", id, status, type, content: body });
    send({ kind: "answer", id, status, type, content: null });
    for await (const text of body) {
      if (abort.signal.aborted) break;
      send({ kind: "chunk", id, text });
    }
    send({ kind: "end", id, problem: null });
  } catch (error) {
    send({ kind: "end", id, problem: messageOf(error) });
  } finally {
    running.delete(id);
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
