/** The kinds of failures that the demo distinguishes. */
export type Failure =
  | "network" // the server did not answer
  | "session" // the session has expired
  | "busy" // as many sessions as the server allows are open, or its disk is full
  | "failed" // the server has a fault: not the request's
  | "refused"; // any other refusal of the server

export class ApiError extends Error {
  constructor(
    readonly failure: Failure,
    message: string,
  ) {
    super(message);
  }
}

export function networkError(): ApiError {
  return new ApiError("network", "The server does not answer.");
}

/** What a request throws that was not answered: a server in the page says why, another one is not reached. */
export function sendingError(error: unknown): ApiError {
  return error instanceof ApiError ? error : networkError();
}

/** The error for a message of the server; `code` if the server sends one. */
export function serverError(text: string, code?: unknown): ApiError {
  const message = asSentence(text);
  // The official server sends no codes.
  if (code === "NO_SESSION" || /cannot find session/i.test(message)) return new ApiError("session", message);
  if (code === "BUSY" || code === "DISK_FULL") return new ApiError("busy", message);
  return new ApiError(code === "INTERNAL" ? "failed" : "refused", message);
}

function asSentence(text: string): string {
  return text.replace(/^./, (first) => first.toUpperCase()).replace(/[^.!?…]$/, "$&.");
}

/** Converts a thrown value to an ApiError. `fetch` throws a TypeError without a connection. */
export function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof TypeError) return networkError();
  return new ApiError("refused", asSentence(error instanceof Error ? error.message : String(error)));
}

/** The error for a REST response with an error status. */
export async function responseError(response: Response): Promise<ApiError> {
  if (response.status === 502 || response.status === 504) return networkError(); // from a proxy whose server is down
  const text = await response.text().catch(() => "");
  try {
    const { error } = JSON.parse(text) as { error: { code: string; message: string } };
    return serverError(error.message, error.code);
  } catch {
    return new ApiError("refused", `The server answered with status ${response.status}.`);
  }
}
