import { json, request } from "./rest";

const POLL_MS = 500;

/**
 * Runs a request that takes long. `run` adds the id to its address, by which the server says how much is done.
 *
 * @param progress receives the share that is done, 0 to 1
 * @param signal cancels the request on the server, too
 */
export async function withJob<T>(
  run: (job: string) => Promise<T>,
  progress: (share: number) => void,
  signal: AbortSignal,
): Promise<T> {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID needs HTTPS
  const job = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const path = `/api/jobs/${job}`;
  const cancel = () => void request(path, { method: "DELETE", keepalive: true }).catch(() => undefined);
  signal.addEventListener("abort", cancel);
  let isAsked = false; // one question at a time
  const timer = setInterval(() => {
    if (isAsked || signal.aborted) return;
    isAsked = true;
    json<{ share: number | null }>(path).then(
      ({ share }) => {
        isAsked = false;
        if (share !== null && !signal.aborted) progress(share);
      },
      () => (isAsked = false), // the request itself says what is wrong
    );
  }, POLL_MS);
  try {
    return await run(job);
  } finally {
    clearInterval(timer);
    signal.removeEventListener("abort", cancel);
  }
}
