import type * as Runtime from "onnxruntime-web";
import { FORMAT, GRAPHS, type GraphName, type Manifest } from "./manifest";
import { Model, type Input, type RunGraph } from "./model";

/** Loads onnxruntime-web and a model from the folder that `sam2fast export --format web` fills. */

const MOST_THREADS = 4;
const DOWNLOAD = 0.95; // of the progress; preparing the graphs is the rest

type Provider = "webgpu" | "wasm";
type Graphs = Record<GraphName, Uint8Array>;

/** What runs the graphs. */
export interface Engine {
  readonly name: "WebGPU" | "WASM";
  /** Why WebGPU does not run them, if it has failed. */
  readonly problem: string | null;
}

/** The part of WebGPU's API that is used here; TypeScript has no types for it. */
interface Gpu {
  requestAdapter(): Promise<{ isFallbackAdapter?: boolean; info?: { isFallbackAdapter?: boolean } } | null>;
}

/**
 * @param folder its address, with a slash at the end
 * @param progress receives the share that is done
 * @param chosen receives what runs the graphs, again after WebGPU has failed
 */
export async function loadModel(
  folder: string,
  progress: (share: number) => void,
  chosen: (engine: Engine) => void,
): Promise<Model> {
  const manifest = (await (await get(`${folder}model/model.json`)).json()) as Manifest;
  if (manifest.format !== FORMAT) throw new Error(`the model has the format ${manifest.format}; expected ${FORMAT}`);
  const files = await download(`${folder}model/`, manifest, progress);
  const start = (provider: Provider) => startGraphs(`${folder}runtime/`, provider, files);
  const startWasm = (problem: string | null) => {
    chosen({ name: "WASM", problem });
    return start("wasm");
  };
  if (!(await hasGpu())) return new Model(manifest, await startWasm(null));
  chosen({ name: "WebGPU", problem: null });
  const model = new Model(manifest, withFallback(start("webgpu"), startWasm));
  await tryOut(model);
  return model;
}

/** Whether the browser offers a GPU; software that imitates one is slower than WebAssembly. */
async function hasGpu(): Promise<boolean> {
  const { gpu } = navigator as { gpu?: Gpu };
  const adapter = await gpu?.requestAdapter().catch(() => null);
  return !!adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

/** Runs graphs by `first` until it fails, from then on by `second`, which receives the reason. */
export function withFallback(first: Promise<RunGraph>, second: (reason: string) => Promise<RunGraph>): RunGraph {
  let other: Promise<RunGraph> | null = null;
  return async (name, inputs) => {
    if (other) return (await other)(name, inputs);
    try {
      return await (
        await first
      )(name, inputs);
    } catch (error) {
      other = second(error instanceof Error ? error.message : String(error));
      return (await other)(name, inputs);
    }
  };
}

/** Runs every graph once: a GPU compiles its programs for them now, or fails. */
async function tryOut(model: Model): Promise<void> {
  const side = model.manifest.image_size;
  const levels = await model.encode(new Uint8Array(3 * side * side));
  const features = levels.at(-1)!;
  const click = { coords: [side / 2, side / 2], labels: [1] };
  const [prediction] = await model.predict(levels, model.withoutMemory(levels), click, null, true);
  const memories = await model.encodeMemories(features, [prediction!], true);
  await model.attend(features, memories, [0], [prediction!.pointer], [0], 1);
}

async function startGraphs(folder: string, provider: Provider, files: Graphs): Promise<RunGraph> {
  const runtime = await loadRuntime(folder, provider);
  const sessions = {} as Record<GraphName, Runtime.InferenceSession>;
  for (const name of GRAPHS) {
    sessions[name] = await runtime.InferenceSession.create(files[name], {
      executionProviders: [provider],
      logSeverityLevel: 3, // errors: it warns that the CPU computes shapes
    });
  }
  return runGraphs(runtime, sessions);
}

/** The graphs' outputs in their order, as arrays that later runs leave alone. */
export function runGraphs(runtime: typeof Runtime, sessions: Record<GraphName, Runtime.InferenceSession>): RunGraph {
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

async function loadRuntime(folder: string, provider: Provider) {
  const runtime = (await import(/* @vite-ignore */ `${folder}${provider}.js`)) as typeof Runtime;
  // Several threads share memory, which browsers allow on cross-origin isolated pages only.
  const threads = crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  runtime.env.wasm.wasmPaths = { wasm: `${folder}${provider}.wasm` };
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
  return { encoder, decoder, memory_attention, memory_encoder } as Graphs;
}

async function get(address: string): Promise<Response> {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address} cannot be loaded: status ${response.status}`);
  return response;
}
