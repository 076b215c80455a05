import { vi } from "vitest";

const MASKS = { frameIndex: 0, rleMaskList: [{ objectId: 1, rleMask: { size: [2, 2], counts: "04" } }] };

export interface Request {
  operation: string;
  input: { points?: number[][]; sessionId?: string };
}

type Answer = object | Promise<object>;

/** Answers requests with the given answers in turn; returns the list of requests. */
export function answerWith(...answers: Answer[]): Request[] {
  const requests: Request[] = [];
  vi.stubGlobal("fetch", async (path: string, init?: { body?: unknown }) => {
    // A lost server stays lost. Otherwise, its health is asked for a second later, in another test.
    if (path === "/healthy") return new Promise<Response>(() => undefined);
    const body = (typeof init?.body === "string" ? JSON.parse(init.body) : {}) as {
      operationName?: string;
      variables?: { input: Request["input"] };
    };
    requests.push({ operation: body.operationName ?? path, input: body.variables?.input ?? {} });
    const answer = await answers.shift();
    if (!answer) throw new Error(`an unexpected request: ${path} ${String(init?.body)}`);
    return new Response(JSON.stringify(answer), { headers: { "Content-Type": "application/json" } });
  });
  return requests;
}

export const clicked = { data: { addPoints: MASKS } };
export const refusal = (code: string) => ({ data: null, errors: [{ message: "not now", extensions: { code } }] });
