import type * as Runtime from "onnxruntime-web";
import { FORMAT, GRAPHS, type GraphName, type Manifest } from "./manifest";
import { Model, type Input } from "./model";

/** Loads onnxruntime-web and a model from the folder that `sam2fast export --format web` fills. */

const MOST_THREADS = 4;
const DOWNLOAD = 0.95; // of the progress; preparing the graphs is the rest

/**
 * @param folder its address, with a slash at the end
 * @param progress receives the share that is done
 */
export async function loadModel(folder: string, progress: (share: number) => void): Promise<Model> {
  const manifest = (await (await get(`${folder}model/model.json`)).json()) as Manifest;
  if (manifest.format !== FORMAT) throw new Error(`the model has the format ${manifest.format}; expected ${FORMAT}`);
  const files = await download(`${folder}model/`, manifest, progress);
  const runtime = await loadRuntime(`${folder}runtime/`);
  const sessions = {} as Record<GraphName, Runtime.InferenceSession>;
  for (const name of GRAPHS) {
    sessions[name] = await runtime.InferenceSession.create(files[name], { executionProviders: ["wasm"] });
  }
  return new Model(manifest, runGraphs(runtime, sessions));
}

/** The graphs' outputs in their order, as arrays that later runs leave alone. */
export function runGraphs(runtime: typeof Runtime, sessions: Record<GraphName, Runtime.InferenceSession>) {
  return async (name: GraphName, inputs: Record<string, Input>) => {
    const session = sessions[name];
    const feeds = Object.entries(inputs).map(([key, { data, dims }]) => [key, new runtime.Tensor(data, dims)] as const);
    const outputs = await session.run(Object.fromEntries(feeds));
    return session.outputNames.map((key) => {
      const { data, dims } = outputs[key]!;
      return { data: data as Float32Array, dims };
    });
  };
}

async function loadRuntime(folder: string) {
  const runtime = (await import(/* @vite-ignore */ `${folder}wasm.js`)) as typeof Runtime;
  // Several threads share memory, which browsers allow on cross-origin isolated pages only.
  const threads = crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  runtime.env.wasm.wasmPaths = { wasm: `${folder}wasm.wasm` };
  runtime.env.wasm.numThreads = threads;
  runtime.env.logLevel = "error";
  return runtime;
}

async function download(folder: string, manifest: Manifest, progress: (share: number) => void) {
  const total = GRAPHS.reduce((sum, name) => sum + manifest.files[`${name}.onnx`]!.size, 0);
  let received = 0;
  const read = async (name: GraphName) => {
    const { body } = await get(`${folder}${name}.onnx`);
    const counted = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        received += chunk.length;
        progress((DOWNLOAD * received) / total);
        controller.enqueue(chunk);
      },
    });
    return new Uint8Array(await new Response(body!.pipeThrough(counted)).arrayBuffer());
  };
  const [encoder, decoder, memory_attention, memory_encoder] = await Promise.all(GRAPHS.map(read));
  return { encoder, decoder, memory_attention, memory_encoder } as Record<GraphName, Uint8Array>;
}

async function get(address: string): Promise<Response> {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address} cannot be loaded: status ${response.status}`);
  return response;
}
