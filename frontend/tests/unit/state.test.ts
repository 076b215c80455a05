import { beforeEach, expect, test, vi } from "vitest";
import { FORMATS, makeDownload } from "../../src/download/formats";
import { promptKey, visibility, withTracked } from "../../src/masks/masks";
import { isUnsaved, saveNow, watchWork } from "../../src/project/autosave";
import { openDataFile } from "../../src/project/files";
import { makeProject, parseProject, restoreWork } from "../../src/project/project";
import { readHistory, saveHistory } from "../../src/project/steps";
import { openClip, restart } from "../../src/project/session";
import { addPoint, firstPromptedFrame, type Scene } from "../../src/scene/scene";
import * as editing from "../../src/state/editing";
import { makeTrack, WHOLE_VIDEO, type Plan } from "../../src/state/plan";
import { freshWork, getState, setState, type Question } from "../../src/state/store";
import { forgetKnown, isSynchronised, synchronise } from "../../src/state/synchronise";
import { cancelTracking, track } from "../../src/state/track";
import { answerWith, clicked, refusal } from "./answers";

const saved = vi.hoisted(() => ({
  get: vi.fn((): Promise<unknown> => Promise.resolve(undefined)),
  set: vi.fn(() => Promise.resolve()),
  del: vi.fn(() => Promise.resolve()),
}));
vi.mock("idb-keyval", () => ({ createStore: () => undefined, ...saved }));

const POINT = { x: 0.25, y: 0.5, positive: true };
const OTHER = { x: 0.75, y: 0.5, positive: false };

/** Answers the open question with yes. */
function confirm(title: string): void {
  const { dialog } = getState();
  expect(dialog).toMatchObject({ title });
  (dialog as Question).onYes();
}

const pointsOf = ({ objects }: Scene) => objects[0]!.prompts[0]?.points;

beforeEach(() => {
  forgetKnown();
  const session = { id: "1", fps: 24, numFrames: 4, source: null };
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
  expect(getState().masks.get(0)?.get(1)?.area).toBe(4);
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

test("undo restores the very masks, and sends them instead of the clicks", async () => {
  const other = {
    data: { addPoints: { frameIndex: 0, rleMaskList: [{ objectId: 1, rleMask: { size: [2, 2], counts: "13" } }] } },
  };
  const requests = answerWith(clicked, other, {});
  editing.addPoint(POINT);
  await synchronise();
  editing.addPoint(OTHER);
  await synchronise();
  expect(getState().masks.get(0)!.get(1)!.counts).toBe("13");
  editing.undo();
  await synchronise();
  expect(getState().masks.get(0)!.get(1)!.counts).toBe("04");
  expect(requests.at(-1)!.operation).toBe("/api/sessions/1/masks");
  expect(isSynchronised()).toBe(true);
});

test("a refused removal brings the object back, and what is tracked", async () => {
  const requests = answerWith(clicked, clicked, refusal("BAD_INPUT"));
  editing.addPoint(POINT);
  await synchronise();
  editing.newObject();
  editing.renameObject(2, "Cup");
  await synchronise();
  editing.addPoint(OTHER);
  await synchronise();
  const before = getState().scene;
  const sources = new Map(before.objects.map(({ id, prompts }) => [id, { all: promptKey(prompts), here: null }]));
  let { masks } = getState();
  for (const frame of [0, 1, 2, 3]) {
    const found = new Map([1, 2].map((id) => [id, { height: 2, width: 2, counts: "04" }]));
    masks = withTracked(masks, { frame, masks: found }, sources);
  }
  setState({ masks, tracking: { state: "done" } });
  editing.deleteObject(2);
  await synchronise();
  expect(requests.at(-1)!.operation).toBe("RemoveObject");
  expect(getState().scene).toEqual(before);
  expect(getState().masks.get(3)!.get(2)!.area).toBe(4);
  expect(getState().tracking).toEqual({ state: "done" });
  answerWith(refusal("BAD_INPUT"));
  editing.addPoint(OTHER);
  expect(getState().tracking).toEqual({ state: "stale" });
  await synchronise();
  expect(getState().tracking).toEqual({ state: "done" });
});

test("a click corrects a mask that an earlier session tracked", async () => {
  answerWith(clicked);
  editing.addPoint(POINT);
  await synchronise();
  const mask = new Map([[1, { height: 2, width: 2, counts: "04" }]]);
  const source = new Map([[1, { all: promptKey(getState().scene.objects[0]!.prompts), here: null }]]);
  const tracked = [1, 2].reduce((found, frame) => withTracked(found, { frame, masks: mask }, source), getState().masks);
  setState({ masks: tracked, frame: 1 });
  forgetKnown();
  const answer = (frameIndex: number) => ({ data: { addPoints: { ...clicked.data.addPoints, frameIndex } } });
  const requests = answerWith({}, {}, answer(1), answer(1));
  editing.addPoint(OTHER);
  await synchronise();
  editing.addPoint(POINT);
  await synchronise();
  const masks = "/api/sessions/1/masks";
  expect(requests.map(({ operation }) => operation)).toEqual([masks, masks, "AddPoints", "AddPoints"]);
});

test("starting over and undo restore tracked masks", async () => {
  answerWith(clicked, { data: { clearPointsInVideo: { success: true } } }, {}, clicked);
  editing.addPoint(POINT);
  await synchronise();
  const { masks, scene } = getState();
  const mask = new Map([[1, { height: 2, width: 2, counts: "04" }]]);
  const source = new Map([[1, { all: promptKey(scene.objects[0]!.prompts), here: null }]]);
  const tracked = [1, 2, 3].reduce((found, frame) => withTracked(found, { frame, masks: mask }, source), masks);
  setState({ masks: tracked, tracking: { state: "done" } });
  editing.startOver();
  expect(getState().masks).toEqual(tracked); // it asks first
  confirm("Start over?");
  await synchronise();
  expect(getState().masks.size).toBe(0);
  expect(getState().tracking).toEqual({ state: "never" });
  editing.undo();
  await synchronise();
  expect(getState().masks).toEqual(tracked);
  expect(getState().tracking).toEqual({ state: "done" });
  editing.addPoint(OTHER);
  expect(getState().tracking).toEqual({ state: "stale" });
});

test("during tracking a click waits; an edit that removes something cancels it, and says so", async () => {
  const requests = answerWith(clicked, clicked);
  editing.addPoint(POINT);
  await synchronise();
  setState({ tracking: { state: "running", done: 1, total: 4, framesPerSecond: null } });
  const { length } = requests;
  editing.addPoint(OTHER);
  expect(getState()).toMatchObject({ tracking: { state: "running" }, following: false, notice: null });
  expect([requests.length, isSynchronised()]).toEqual([length, false]);
  editing.undo();
  expect([getState().tracking.state, isSynchronised()]).toEqual(["running", true]);
  editing.deletePoint(1, 0, 0);
  expect(getState().tracking.state).toBe("cancelling");
  expect(getState().notice?.text).toMatch(/cancelled by your change/);
  await synchronise();
});

test("a plan becomes a request", async () => {
  answerWith(clicked);
  expect(makeTrack(WHOLE_VIDEO, getState().scene, getState().masks, 2, 4)).toBeNull(); // nothing is clicked
  editing.addPoint(POINT);
  await synchronise();
  const { scene, masks } = getState();
  const plan = (change: Partial<Plan>) => makeTrack({ ...WHOLE_VIDEO, ...change }, scene, masks, 2, 4);
  const objects = [1];
  expect(plan({})).toEqual({ start: 0, direction: "both", end: null, objects, total: 4 });
  expect(plan({ extent: "forward" })).toEqual({ start: 2, direction: "forward", end: 3, objects, total: 2 });
  expect(plan({ extent: "backward" })).toEqual({ start: 2, direction: "backward", end: null, objects, total: 3 });
  expect(plan({ extent: "range", first: 1, last: 9 })).toMatchObject({ start: 1, end: 3, total: 3 });
  expect(plan({ extent: "range", first: 0, last: 0, onlyChanged: true })).toBeNull(); // its mask is new
  expect(plan({ onlyChanged: true })).not.toBeNull();
});

test("a project keeps clicks, masks and what is stale", async () => {
  answerWith(clicked);
  editing.addPoint(POINT);
  await synchronise();
  const { masks, scene } = getState();
  const key = promptKey(scene.objects[0]!.prompts);
  const mask = { height: 2, width: 2, counts: "04" };
  let tracked = withTracked(masks, { frame: 1, masks: new Map([[1, mask]]) }, new Map([[1, { all: key, here: null }]]));
  tracked = withTracked(tracked, { frame: 2, masks: new Map([[1, mask]]) }, new Map([[1, { all: "old", here: null }]]));
  const clip = { path: "gallery/a.mp4", name: "A", url: "/gallery/a.mp4", poster: null, width: 2, height: 2 };
  setState({ masks: tracked, clip });
  const project = parseProject(JSON.stringify(makeProject(getState())));
  const restored = restoreWork(project, 4)!;
  expect(restored.scene).toEqual(scene);
  expect([...visibility(restored.masks!, 1, 4, key)]).toEqual([...visibility(tracked, 1, 4, key)]);
  expect(restored.masks!.get(0)!.get(1)!.answerTo).toBe(promptKey(scene.objects[0]!.prompts[0]!));
  expect(restoreWork(project, 5)).toBeNull(); // another video under this name
  const foreign = JSON.stringify({ ...project, clip: { ...clip, url: "https://elsewhere.example/a.mp4" } });
  expect(parseProject(foreign).clip.url).toBe("/gallery/a.mp4");
  for (const text of [
    "",
    "{}",
    JSON.stringify({ ...project, version: 2 }),
    JSON.stringify({ ...project, masks: null }),
    JSON.stringify({ ...project, look: { ...project.look, objects: { effect: "toString", variant: 0 } } }),
  ]) {
    expect(() => parseProject(text)).toThrow(/project/i);
  }
  const withPrompt = (frame: number, prompt: object) => {
    const [object] = project.scene.objects;
    return {
      scene: { objects: [{ ...object, prompts: { [frame]: { points: [], box: null, mask: null, ...prompt } } }] },
    };
  };
  const damages = [
    { tracking: "running" },
    { frame: 4 },
    { frame: 0.5 },
    { numFrames: "4" },
    { masks: project.masks.map((mask) => ({ ...mask, frame: -1 })) },
    { scene: { objects: [...project.scene.objects, ...project.scene.objects] } },
    withPrompt(4, { points: [POINT] }),
    withPrompt(0, {}),
    withPrompt(0, { points: [{ ...POINT, x: "0" }] }),
    withPrompt(0, { points: [{ ...POINT, y: 1.5 }] }),
    withPrompt(0, { box: { left: 0, top: 0, right: 1 } }),
    withPrompt(0, { mask: { height: 2, width: 2, counts: "4" } }),
  ];
  for (const damage of damages) {
    expect(() => parseProject(JSON.stringify({ ...project, ...damage })), JSON.stringify(damage)).toThrow(/damaged/);
  }
  for (const [damage, message] of [
    [{ look: null }, /the effects \(“look”\) are missing or wrong/],
    [{ frame: 9 }, /the frame that is shown \(“frame”\)/],
    [{ masks: [{ ...project.masks[0], counts: "~" }] }, /the masks \(“masks”\)/],
    [{ scene: {} }, /the objects \(“scene”\)/],
    [withPrompt(0, { points: [{ ...POINT, y: 1.5 }] }), /a prompt of an object/],
    [{ active: 7 }, /the selected object/],
    [{ clip: null }, /the video/],
  ] as const) {
    expect(() => parseProject(JSON.stringify({ ...project, ...damage }))).toThrow(message);
  }
  expect(() => parseProject('{"format": "sam2fast project", ')).toThrow(/damaged: it is no JSON \(.*position/);
  expect(parseProject(JSON.stringify({ ...project, ...withPrompt(3, { points: [POINT] }) })).numFrames).toBe(4);
});

test("a click is unsaved until it is saved, also if its session is lost; a position is not while the video plays", async () => {
  vi.stubGlobal("window", globalThis);
  vi.stubGlobal("document", { addEventListener: () => undefined });
  const facts = { fps: 24, numFrames: 4, width: 2, height: 2 };
  answerWith(clicked, {}, { data: { startSession: { sessionId: "2" } } }, facts, {});
  const clip = { path: "gallery/a.mp4", name: "A", url: "/gallery/a.mp4", poster: null, width: 2, height: 2 };
  setState({ clip });
  watchWork();
  editing.addPoint(POINT);
  await synchronise();
  expect(isUnsaved()).toBe(true);
  const restarting = restart();
  expect(saved.set).toHaveBeenCalledOnce();
  await restarting;
  await saveNow();
  setState({ playing: true });
  setState({ frame: 2 });
  expect(isUnsaved()).toBe(false);
  setState({ playing: false });
  expect(isUnsaved()).toBe(true);
  await saveNow();
  expect(saved.set).toHaveBeenCalledTimes(3);
});

test("saved work that does not fit its video is kept until the user edits", async () => {
  const clip = { path: "gallery/a.mp4", name: "A", url: "/gallery/a.mp4", poster: null, width: 2, height: 2 };
  answerWith(clicked, { data: { clearPointsInVideo: { success: true } } });
  const scene = addPoint(getState().scene, 1, 0, POINT);
  setState({ clip, scene });
  saved.get.mockResolvedValue(makeProject(getState()));
  setState(freshWork()); // as `openClip` begins
  saved.set.mockClear();
  setState({ frame: 1 });
  await saveNow();
  expect(saved.del).not.toHaveBeenCalled();
  editing.newObject();
  await saveNow();
  expect(saved.set).toHaveBeenCalledOnce();
  editing.undo();
  await saveNow();
  expect(saved.del).not.toHaveBeenCalled(); // redo is saved
});

test("undo and redo are as before after a reload, as many steps as there is room for", async () => {
  answerWith(clicked);
  editing.addPoint(POINT);
  await synchronise();
  editing.newObject();
  editing.newObject();
  editing.undo();
  const { history } = getState();
  const read = readHistory(structuredClone(saveHistory(history)));
  expect(read).toEqual(history);
  expect([read.past.length, read.future.length]).toEqual([2, 1]);
  const [first] = [...getState().masks.get(0)!.values()];
  const large = (step: number) => ({ ...first!, counts: `${step}`.padStart(1_500_000, "0") });
  const past = Array.from({ length: 90 }, (_, step) => ({
    scene: { objects: [] },
    masks: new Map(step < 88 ? [] : [[0, new Map([[1, large(step)], [2, large(-step)]])]]), // prettier-ignore
  }));
  expect(saveHistory({ past: past.slice(0, 88), future: [] }).past).toHaveLength(50);
  expect(saveHistory({ past, future: [] }).past.map(({ masks }) => masks.length)).toEqual([2]);
});

test("a video that another tab has open is not saved; the lock is held until another one is opened", async () => {
  const held: string[] = [];
  let isBusy = true; // the first request is not answered in time, though nobody holds the lock
  const request = async (name: string, _: object, lock: () => Promise<void>) => {
    if (isBusy || name.endsWith("b.mp4")) {
      isBusy = false;
      throw new DOMException("", "TimeoutError");
    }
    held.push(name);
    await lock();
    held.pop();
  };
  const query = () => Promise.resolve({ held: [{ name: "sam2fast gallery/b.mp4" }] });
  vi.stubGlobal("navigator", { locks: { request, query } });
  saved.get.mockResolvedValue(undefined);
  const edit = async (name: string) => {
    answerWith({}, { data: { startSession: { sessionId: "2" } } }, { fps: 24, numFrames: 4, source: null }, clicked);
    await openClip({ path: `gallery/${name}.mp4`, name, url: "", poster: null, width: 2, height: 2 });
    editing.addPoint(POINT);
    await synchronise();
    saved.set.mockClear();
    await saveNow();
  };
  await edit("a");
  expect(held).toEqual(["sam2fast gallery/a.mp4"]);
  expect(getState()).toMatchObject({ elsewhere: false, notice: null });
  expect(saved.set).toHaveBeenCalledOnce();
  await edit("b");
  expect(held).toEqual([]);
  expect(getState()).toMatchObject({ elsewhere: true, notice: { tone: "error" } });
  expect(saved.set).not.toHaveBeenCalled();
  expect(isUnsaved()).toBe(true);
  await edit("a");
  expect(held).toHaveLength(1);
  expect(saved.set).toHaveBeenCalledOnce();
  expect(isUnsaved()).toBe(false);
});

test("a project asks before it replaces other work on its video", async () => {
  const clip = { path: "gallery/a.mp4", name: "A", url: "/gallery/a.mp4", poster: null, width: 2, height: 2 };
  setState({ clip, scene: addPoint(getState().scene, 1, 0, POINT), dialog: null });
  const file = new File([JSON.stringify(makeProject(getState()))], "a.json");
  saved.get.mockResolvedValue(makeProject(getState()));
  const requests = answerWith();
  await openDataFile(file);
  expect(requests).toEqual([]);
  answerWith({}, { data: { startSession: { sessionId: "2" } } }, { fps: 24, numFrames: 4, width: 2, height: 2 }, {});
  confirm("Replace your work?");
  await expect.poll(getState).toMatchObject({ dialog: null, session: { id: "2" } });
  saved.get.mockResolvedValue(undefined);
  answerWith({ data: { startSession: { sessionId: "3" } } }, { fps: 24, numFrames: 4, width: 2, height: 2 }, {});
  setState({ session: null });
  await openDataFile(file);
  expect(getState()).toMatchObject({ dialog: null, session: { id: "3" } });
});

test.each([
  ["gallery/01_clip_v1.2.mp4", "Clip v1.2", "Clip v1.2.sam2fast.json"],
  ["uploads/ab12.mp4", "my clip.v2.mov", "my clip.v2.sam2fast.json"],
  ["uploads/ab12.mp4", "Your video", "Your video.sam2fast.json"],
])("files of %s, %s, are named %s", async (path, name, file) => {
  setState({ clip: { path, name, url: "", poster: null, width: 2, height: 2 } });
  const project = FORMATS.find(({ name }) => name === "Project")!;
  const download = await makeDownload(project, "seen", "high", 1, () => undefined, new AbortController().signal);
  expect(download?.name).toBe(file);
});
