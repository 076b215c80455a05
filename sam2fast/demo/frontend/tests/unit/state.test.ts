import { beforeEach, expect, test, vi } from "vitest";
import { wouldLoseClicks } from "../../src/library/choosing";
import * as editing from "../../src/state/editing";
import { addObject, emptyScene, firstPromptedFrame, type Scene } from "../../src/state/scene";
import { freshWork, getState, setState } from "../../src/state/store";
import { forgetKnown, isSynchronised, synchronise } from "../../src/state/synchronise";
import { cancelTracking, track } from "../../src/state/track";

const POINT = { x: 0.25, y: 0.5, positive: true };
const OTHER = { x: 0.75, y: 0.5, positive: false };
const MASKS = { frameIndex: 0, rleMaskList: [{ objectId: 1, rleMask: { size: [2, 2], counts: "04" } }] };

interface Request {
  operation: string;
  input: { points?: number[][] };
}

type Answer = object | Promise<object>;

/** Answers requests with the given answers in turn; returns the list of requests. */
function answerWith(...answers: Answer[]): Request[] {
  const requests: Request[] = [];
  vi.stubGlobal("fetch", async (path: string, init: { body: string }) => {
    const body = JSON.parse(init.body) as { operationName?: string; variables?: { input: Request["input"] } };
    requests.push({ operation: body.operationName ?? path, input: body.variables?.input ?? {} });
    const answer = await answers.shift();
    if (!answer) throw new Error(`an unexpected request: ${init.body}`);
    return new Response(JSON.stringify(answer), { headers: { "Content-Type": "application/json" } });
  });
  return requests;
}

const clicked = { data: { addPoints: MASKS } };
const refusal = (code: string) => ({ data: null, errors: [{ message: "not now", extensions: { code } }] });
const pointsOf = ({ objects }: Scene) => objects[0]!.prompts[0]?.points;

beforeEach(() => {
  forgetKnown();
  const session = { id: "1", fps: 24, numFrames: 4 };
  setState({ ...freshWork(), session, phase: "ready", connected: true, notice: null });
});

test("tracking that is cancelled during a pending click never begins", async () => {
  let answer!: (answer: object) => void;
  const requests = answerWith(new Promise<object>((resolve) => (answer = resolve)));
  editing.addPoint(POINT);
  const tracking = track();
  const cancelling = cancelTracking();
  expect(getState().tracking.state).toBe("cancelling");
  answer(clicked);
  await Promise.all([tracking, cancelling]);
  expect(getState().tracking).toEqual({ state: "cancelled" });
  expect(requests.map(({ operation }) => operation)).toEqual(["AddPoints"]);
  expect(getState().maskStore.at(0).get(1)?.area).toBe(4);
});

test("a click that a busy server refuses is kept and sent with the next one", async () => {
  const requests = answerWith(clicked, refusal("BUSY"), clicked);
  editing.addPoint(POINT);
  await synchronise();
  editing.addPoint(OTHER);
  await synchronise();
  expect(pointsOf(getState().scene)).toEqual([POINT, OTHER]);
  expect(getState().history.past).toHaveLength(2);
  expect(getState().notice?.text).toMatch(/Not now.*kept/);
  expect(isSynchronised()).toBe(false);

  editing.addPoint(POINT);
  await synchronise();
  expect(requests.map(({ input }) => input.points!.length)).toEqual([1, 2, 3]);
  expect(isSynchronised()).toBe(true);
});

test("a refused click is reverted, and undo still has the earlier ones", async () => {
  const requests = answerWith(clicked, refusal("BAD_INPUT"), { data: { clearPointsInVideo: { success: true } } });
  editing.addPoint(POINT);
  await synchronise();
  editing.addPoint(OTHER);
  await synchronise();
  expect(pointsOf(getState().scene)).toEqual([POINT]);
  editing.undo();
  await synchronise();
  expect(firstPromptedFrame(getState().scene)).toBeNull();
  expect(requests.at(-1)!.operation).toBe("ClearPointsInVideo");
  expect(getState().history.past).toHaveLength(0);
  editing.redo();
  expect(pointsOf(getState().scene)).toEqual([POINT]);
});

test("clicks can be lost until they are downloaded", async () => {
  expect(wouldLoseClicks({ scene: addObject(emptyScene()), downloaded: null })).toBe(false);
  answerWith(clicked, clicked);
  editing.addPoint(POINT);
  await synchronise();
  expect(wouldLoseClicks(getState())).toBe(true);
  setState({ downloaded: getState().scene });
  expect(wouldLoseClicks(getState())).toBe(false);
  editing.addPoint(OTHER);
  await synchronise();
  expect(wouldLoseClicks(getState())).toBe(true);
});
