import { beforeEach, expect, test, vi } from "vitest";
import type { FromWorker, ToWorker } from "../../src/local/calls";

/** The page's side of the worker that answers its requests. */

class FakeWorker extends EventTarget {
  readonly sent: ToWorker[] = [];

  constructor() {
    super();
    workers.unshift(this);
  }

  postMessage(message: ToWorker): void {
    this.sent.push(message);
  }

  say(data: FromWorker): void {
    this.dispatchEvent(new MessageEvent("message", { data }));
  }
}

const workers: FakeWorker[] = [];
let worker: FakeWorker;
let client: typeof import("../../src/local/client");
const loading = vi.fn();
const transport = vi.hoisted(() => ({ send: vi.fn<typeof fetch>() }));
vi.mock("../../src/api/transport", () => transport);

beforeEach(async () => {
  vi.resetModules();
  vi.stubGlobal("document", { baseURI: "http://localhost/" });
  vi.stubGlobal("Worker", FakeWorker);
  client = await import("../../src/local/client");
  worker = workers[0]!;
  client.start("model/", loading);
});

const callOf = (path: string) =>
  worker.sent.find((message) => message.kind === "call" && message.call.path === path) as { id: number };

test("a track that fails in the worker says why", async () => {
  const { ApiError } = await import("../../src/api/errors");
  transport.send.mockImplementation((path, init) => client.send(path as string, init));
  const request = { start: 0, direction: "forward", end: null, objects: [1], total: 1 } as const;
  const { propagate } = await import("../../src/api/propagate");
  const next = propagate("1", request, new AbortController().signal).next();
  const { id } = callOf("/propagate_in_video");
  worker.say({ kind: "answer", id, status: 200, type: "multipart/x-savi-stream", content: null });
  worker.say({ kind: "end", id, problem: "frame 3 cannot be decoded" });
  await expect(next).rejects.toEqual(new ApiError("refused", "Frame 3 cannot be decoded."));
});

test("after an error of the worker every call fails and says why", async () => {
  const first = client.send("/a");
  worker.dispatchEvent(Object.assign(new Event("error"), { message: "no memory" }));
  await expect(first).rejects.toThrow("The model has stopped: no memory. Reload the page.");
  await expect(client.send("/b")).rejects.toThrow("no memory");
  expect(loading).toHaveBeenCalledWith(
    expect.objectContaining({ problem: expect.stringMatching("no memory") as string }),
  );
});

test("a call is cancelled until it is answered, not later", async () => {
  const abort = new AbortController();
  const response = client.send("/a", { signal: abort.signal });
  worker.say({ kind: "answer", id: callOf("/a").id, status: 200, type: "text/plain", content: "OK" });
  expect(await (await response).text()).toBe("OK");
  const other = client.send("/b", { signal: abort.signal });
  abort.abort();
  await expect(other).rejects.toThrow(/abort/);
  expect(worker.sent.filter(({ kind }) => kind === "cancel")).toEqual([{ kind: "cancel", id: callOf("/b").id }]);
});
