import { isHealthy } from "../api/rest";
import { asApiError } from "../api/errors";
import { getState, notify, setState } from "./store";

const RETRY_MS = [1000, 2000, 4000, 8000];

/**
 * Handles an error of a request: a lost server and a lost session are reported to listeners; other errors are shown.
 *
 * @param session of the request: what a closed session lacks does not matter
 * @returns whether the same request may succeed later
 */
export function handleFailure(error: unknown, session = getState().session): boolean {
  const { failure, message } = asApiError(error);
  if (failure === "network") {
    void waitForServer();
    return true;
  }
  if (failure === "session") {
    if (session === getState().session) for (const listener of sessionListeners) listener();
    return true;
  }
  notify("error", message);
  return failure === "busy";
}

const listeners = new Set<() => void>();
const sessionListeners = new Set<() => void>();

/** Calls back when the server does not know the session any more: it has expired, or the server was restarted. */
export function onSessionLost(listener: () => void): void {
  sessionListeners.add(listener);
}

/** Calls back when the server answers again. */
export function onReconnected(listener: () => void): void {
  listeners.add(listener);
}

async function waitForServer(): Promise<void> {
  if (!getState().connected) return; // already waiting
  setState({ connected: false }); // a banner says so
  for (let attempt = 0; ; attempt += 1) {
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]));
    if (await isHealthy()) break;
  }
  setState({ connected: true, announcement: "The server answers again." });
  for (const listener of listeners) listener();
}
