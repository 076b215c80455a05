/** What went wrong, as far as the demo reacts to it. */
export type Failure =
  | "network" // the server did not answer
  | "session" // the server does not know the session any more
  | "busy" // as many sessions as the server allows are open
  | "refused"; // anything else the server says no to

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

/** The error that a message of the server stands for; `code` where the server gives one. */
export function serverError(text: string, code?: unknown): ApiError {
  const message = asSentence(text);
  // The original has no codes, only messages.
  if (code === "NO_SESSION" || /cannot find session/i.test(message)) return new ApiError("session", message);
  if (code === "BUSY") return new ApiError("busy", message);
  return new ApiError("refused", message);
}

function asSentence(text: string): string {
  return text.replace(/^./, (first) => first.toUpperCase()).replace(/[^.!?…]$/, "$&.");
}

/** Any thrown thing as an ApiError. `fetch` throws a TypeError when there is no connection. */
export function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof TypeError) return networkError();
  return new ApiError("refused", error instanceof Error ? error.message : String(error));
}

/** The error that an answer of a REST route with a bad status stands for. */
export async function responseError(response: Response): Promise<ApiError> {
  if (response.status === 502 || response.status === 504) return networkError(); // a proxy before a server that is gone
  const text = await response.text().catch(() => "");
  try {
    const { error } = JSON.parse(text) as { error: { code: string; message: string } };
    return serverError(error.message, error.code);
  } catch {
    return new ApiError("refused", `The server answered with status ${response.status}.`);
  }
}
