import { beforeEach, expect, test, vi } from "vitest";
import { ApiError } from "../../src/api/errors";
import type { Clip } from "../../src/api/video";
import { withMasks } from "../../src/photos/downloads";
import { addPhotos, showPhoto, toggleDone, usePhotos, watchPhotos } from "../../src/photos/list";
import { openPhotosProject } from "../../src/photos/project";
import { rememberPhotos, save } from "../../src/photos/remembered";
import { cycleCandidates, useCandidates } from "../../src/precision/candidates";
import { openDataFile } from "../../src/project/files";
import { makeProject } from "../../src/project/project";
import { openClip } from "../../src/project/session";
import * as editing from "../../src/state/editing";
import { handleFailure, onSessionLost } from "../../src/state/failures";
import { freshWork, getState, isOpening, setState } from "../../src/state/store";
import { forgetKnown, isSynchronised, synchronise } from "../../src/state/synchronise";
import { track } from "../../src/state/track";
import { answerWith, clicked, refusal } from "./answers";

/** Answers that come after another click, video or session, and answers that refuse. */

const POINT = { x: 0.25, y: 0.5, positive: true };
const PAINTED = { height: 2, width: 2, counts: "13" };
const clipOf = (name: string): Clip => {
  return { path: `gallery/${name}.mp4`, name, url: `/gallery/${name}.mp4`, poster: null, width: 2, height: 2 };
};
const sessionOf = (id: string) => ({ id, fps: 24, numFrames: 4, source: null });
const started = (sessionId: string) => ({ data: { startSession: { sessionId } } });
const facts = { fps: 24, numFrames: 4, width: 2, height: 2, secondsLeft: 60 };
const shown = (id: number) => getState().masks.get(0)?.get(id)?.counts;
const answered = (objectId: number) => {
  return { frameIndex: 0, rleMaskList: [{ objectId, rleMask: { size: [2, 2], counts: "04" } }] };
};
const offered = () => useCandidates.getState().offer?.object;

const video = vi.hoisted(() => ({ located: vi.fn((clip: Clip): Promise<Clip> => Promise.resolve(clip)) }));
type Change = (stored: unknown) => unknown;
const store = vi.hoisted(() => ({ get: vi.fn(), update: vi.fn<(key: string, change: Change) => Promise<void>>() }));
vi.mock("idb-keyval", async (original) => ({ ...(await original<object>()), ...store }));
const saved = vi.hoisted(() => ({ loadProject: vi.fn((): Promise<object | null> => Promise.resolve(null)) }));
vi.mock("../../src/project/autosave", async (original) => ({ ...(await original<object>()), ...saved }));
const sending = vi.hoisted(() => ({ uploadVideo: vi.fn() }));
vi.mock("../../src/api/upload", async (original) => ({ ...(await original<object>()), ...sending }));
vi.mock("../../src/api/video", async (original) => ({ ...(await original<object>()), ...video }));

/** An answer that comes when `send` is called. */
function later() {
  let send!: (answer: object) => void;
  const answer = new Promise<object>((resolve) => (send = resolve));
  return { answer, send };
}

beforeEach(() => {
  forgetKnown();
  useCandidates.setState({ offer: null });
  setState({
    ...freshWork(),
    clip: clipOf("a"),
    session: sessionOf("1"),
    phase: "ready",
    connected: true,
    notice: null,
  });
});

test("a mask that was painted before the answer to the click stays", async () => {
  const { answer, send } = later();
  answerWith(answer, {});
  editing.addPoint(POINT);
  editing.setAnswer(1, 0, { points: [], box: null, mask: PAINTED }, PAINTED);
  send(clicked);
  await synchronise();
  expect(shown(1)).toBe("13");
  expect(isSynchronised()).toBe(true);
});

test("a refused mask is not shown any more", async () => {
  answerWith(clicked, refusal("BAD_INPUT"));
  editing.addPoint(POINT);
  await synchronise();
  vi.stubGlobal("fetch", () =>
    Promise.resolve(new Response('{"error": {"code": "TOO_MANY", "message": "no room"}}', { status: 400 })),
  );
  editing.setAnswer(1, 0, { points: [], box: null, mask: PAINTED }, PAINTED);
  await synchronise();
  expect(getState().scene.objects[0]!.prompts[0]!.points).toEqual([POINT]);
  expect(shown(1)).toBe("04");
  expect(getState().history.past).toHaveLength(1);
});

test("the video that was chosen last is opened", async () => {
  const { answer, send } = later();
  video.located.mockImplementationOnce(async (clip) => (await answer, clip));
  answerWith(started("2"), facts);
  setState({ session: null });
  const first = openClip(clipOf("b"));
  await openClip(clipOf("c"));
  send({});
  await first;
  expect(getState().clip?.name).toBe("c");
  expect(getState().session?.id).toBe("2");
});

test("a project of other frames is refused, and its session is the video's own", async () => {
  const project = { ...makeProject(getState())!, numFrames: 5, active: 7 };
  answerWith({}, started("2"), facts);
  await openClip(clipOf("a"), project);
  expect(getState().active).toBe(1);
  expect(getState().notice).toMatchObject({ tone: "error", text: expect.stringMatching(/5 frames.*has 4/) as string });
});

test("a session that cannot be asked for its video is closed", async () => {
  const requests = answerWith(started("2"), Promise.reject(new TypeError("lost")), {}, {});
  setState({ session: null });
  expect(await openClip(clipOf("a"))).toBe(false);
  expect(requests.map(({ input }) => input.sessionId)).toContain("2");
});

test("masks of a file are not added to a video that was opened meanwhile", async () => {
  const { answer, send } = later();
  answerWith(answer);
  const importing = openDataFile(new File(["png"], "a.png"));
  setState({ ...freshWork(), session: sessionOf("2") });
  send({ objects: [{ name: "cup", masks: [{ frame: 0, mask: { size: [2, 2], counts: "04" } }] }] });
  await importing;
  expect(getState().masks.size).toBe(0);
  expect(getState().scene.objects).toHaveLength(1);
});

test("what fails in a closed session does not end the open one", () => {
  const lost = vi.fn();
  onSessionLost(lost);
  const error = new ApiError("session", "Cannot find session.");
  handleFailure(error, sessionOf("0"));
  expect(lost).not.toHaveBeenCalled();
  handleFailure(error);
  expect(lost).toHaveBeenCalledOnce();
});

test("a box and clicks that come while a session is started wait for it, unless something else is opened", async () => {
  const { answer, send } = later();
  const box = { left: 0.1, top: 0.1, right: 0.6, bottom: 0.6 };
  const requests = answerWith(answer, facts, clicked, { data: { addPoints: answered(2) } });
  setState({ session: null });
  const opening = openClip(clipOf("b"));
  await vi.waitFor(() => expect(requests.at(-1)?.operation).toBe("StartSession"));
  editing.setBox(box);
  editing.newObject();
  editing.addPoint(POINT);
  send(started("2"));
  await opening;
  await synchronise();
  expect(getState().scene.objects.map(({ prompts }) => prompts[0])).toMatchObject([{ box }, { points: [POINT] }]);
  const prompted = requests.filter(({ operation }) => operation === "AddPoints");
  expect(prompted.map(({ input }) => input.sessionId)).toEqual(["2", "2"]);
  expect(getState().history.past).toHaveLength(3);

  setState({ session: null });
  answerWith(later().answer, started("4"), facts);
  void openClip(clipOf("c"));
  await vi.waitFor(() => expect(getState().clip?.name).toBe("c"));
  editing.addPoint(POINT);
  expect(getState().early).toHaveLength(1);
  await openClip(clipOf("d"));
  expect(getState().scene.objects[0]!.prompts).toEqual({});
});

test("tracking that cannot begin leaves its state as it was", async () => {
  answerWith(refusal("BUSY"));
  editing.addPoint(POINT);
  await track();
  expect(getState().tracking).toEqual({ state: "never" });
});

test("a key without an effect ends no redo", async () => {
  answerWith(clicked, { data: { clearPointsInVideo: { success: true } } });
  editing.addPoint(POINT);
  await synchronise();
  editing.undo();
  await synchronise();
  editing.clearHere();
  expect(getState().history.future).toHaveLength(1);
});

test("each object's first click has masks to choose from, and keys choose those of the active one", async () => {
  const found = (object: number) => ({ data: { addPoints: answered(object) } });
  const offer = { masks: ["04", "13", "22"].map((counts) => ({ size: [2, 2], counts, iou: 0.5 })) };
  const requests = answerWith(found(1), offer, found(2), offer);
  editing.addPoint(POINT);
  await synchronise();
  await vi.waitFor(() => expect(offered()).toBe(1));
  editing.newObject();
  await synchronise();
  cycleCandidates(1);
  expect(shown(1)).toBe("04");
  editing.addPoint(POINT);
  await synchronise();
  await vi.waitFor(() => expect(offered()).toBe(2));
  expect(requests.at(-1)!.operation).toBe("/api/sessions/1/preview");
});

const PHOTO = { key: "", file: null, thumbnail: null, objects: 0, done: false, work: null };
const photos = ["a", "b"].map((name, id) => {
  return { ...PHOTO, id, name, clip: { ...clipOf(name), path: `uploads/${name}.jpg` } };
});

test("a photograph is left when its click has a mask", async () => {
  const { answer, send } = later();
  answerWith(answer, {}, {}, started("2"), facts);
  usePhotos.setState({ items: photos, current: 0 });
  setState({ clip: photos[0]!.clip });
  editing.addPoint(POINT);
  const leaving = showPhoto(1);
  expect(usePhotos.getState().current).toBe(0);
  send(clicked);
  await leaving;
  expect(usePhotos.getState().current).toBe(1);
  expect(getState().phase).toBe("ready");
  expect(usePhotos.getState().items[0]!.work!.masks).toMatchObject([{ object: 1, counts: "04" }]);
});

const lacked = () => [{}, refusal("NOT_FOUND")]; // the old session is closed first

test("a photograph that the server lacks is named", async () => {
  answerWith(...lacked());
  usePhotos.setState({ items: photos, current: 0 });
  setState({ clip: photos[0]!.clip });
  await showPhoto(1);
  expect(getState().notice?.text).toMatch(/“b” cannot be opened.*add it again/);
});

test("photographs with clicks alone are not left out of a file silently", async () => {
  editing.addPoint(POINT);
  const work = { ...makeProject(getState())!, clip: photos[1]!.clip };
  expect(await withMasks([{ ...photos[1]!, work }])).toEqual([]);
  expect(getState().notice?.text).toMatch(/1 photograph has clicks without masks; open it first: b$/);
});

test("a project of photographs asks before it replaces other work", async () => {
  editing.addPoint(POINT);
  const work = { ...makeProject(getState())!, clip: photos[1]!.clip };
  saved.loadProject.mockResolvedValueOnce(work);
  usePhotos.setState({ items: photos, current: 0 });
  const photographs = [{ name: "b", done: true, work }];
  await openPhotosProject(JSON.stringify({ format: "sam2fast photographs", version: 1, photographs }));
  expect(usePhotos.getState().items[1]!.done).toBe(false);
  expect(getState().dialog).toMatchObject({ title: "Replace your work?" });
});

test("lists of several tabs are kept together", async () => {
  vi.stubGlobal("window", globalThis);
  const [a, b] = photos as [(typeof photos)[0], (typeof photos)[0]];
  let stored = [b];
  store.get.mockImplementation(() => Promise.resolve(stored));
  store.update.mockImplementation((_, change) => Promise.resolve(void (stored = change(stored) as typeof photos)));
  const list = async (...items: typeof photos) => {
    usePhotos.setState({ items });
    await save();
    return stored.map(({ name }) => name);
  };
  usePhotos.setState({ items: [a] }); // before the stored list is read
  await rememberPhotos();
  expect(await list(a)).toEqual(["a", "b"]);
  expect(await list(a, b)).toEqual(["a", "b"]);
  expect(await list(b)).toEqual(["b"]); // this tab has removed the other one
});

const LIMITS = {
  ...{ maxUploadMB: 1, maxSeconds: 1, formats: [], photoFormats: ["jpg"] },
  ...{ maxSessions: 1, model: "nano", imageSize: 512 },
};
const ADDED = new File(["b"], "b.jpg");
const again = () => {
  const items = [photos[0]!, { ...photos[1]!, key: `b.jpg ${ADDED.size} ${ADDED.lastModified}` }];
  usePhotos.setState({ items, current: 0 });
  setState({ clip: photos[0]!.clip, limits: LIMITS });
};

test("a photograph that the server lacks can be added again", async () => {
  answerWith(...lacked(), refusal("NOT_FOUND"), started("2"), facts);
  again();
  await showPhoto(1);
  sending.uploadVideo.mockResolvedValueOnce(photos[1]!.clip);
  await addPhotos([ADDED]);
  expect(sending.uploadVideo).toHaveBeenCalledOnce();
  expect(getState()).toMatchObject({ phase: "ready", clip: { path: "uploads/b.jpg" } });
});

test("a photograph that is sent again is left when its click has a mask", async () => {
  const { answer, send } = later();
  answerWith(...lacked(), started("2"), facts, clicked, {}, {}, started("3"), facts);
  again();
  usePhotos.setState(({ items }) => ({ items: items.map((item) => ({ ...item, file: ADDED })) }));
  sending.uploadVideo.mockImplementationOnce(() => answer.then(() => photos[1]!.clip));
  const opening = showPhoto(1);
  await vi.waitFor(() => expect(getState().sending).not.toBe(""));
  editing.addPoint(POINT);
  const leaving = showPhoto(0);
  send({});
  await opening;
  await leaving;
  expect(usePhotos.getState().current).toBe(0);
  expect(usePhotos.getState().items[1]!.work!.masks).toMatchObject([{ object: 1, counts: "04" }]);
  expect(getState()).toMatchObject({ phase: "ready", clip: { path: "uploads/a.jpg" } });
});

/** Begins to send the second photograph while the first one is open. */
async function beginSending() {
  const { answer, send } = later();
  const items = [photos[0]!, { ...photos[1]!, clip: null, file: ADDED }];
  usePhotos.setState({ items, current: 0 });
  setState({ clip: photos[0]!.clip });
  sending.uploadVideo.mockReset();
  sending.uploadVideo.mockImplementationOnce(() => answer.then(() => photos[1]!.clip));
  const opening = showPhoto(1);
  await vi.waitFor(() => expect(sending.uploadVideo).toHaveBeenCalled());
  return { opening, sent: () => send({}) };
}

const keptMasks = (place: number) => usePhotos.getState().items[place]!.work?.masks;

test("clicks on a photograph count while another one is sent, and get their masks first", async () => {
  const { answer, send } = later();
  const requests = answerWith(answer, {}, {}, started("2"), facts); // the second one offers masks
  const { opening, sent } = await beginSending();
  editing.addPoint(POINT);
  expect(getState().scene.objects[0]!.prompts[0]?.points).toEqual([POINT]);
  sent();
  await vi.waitFor(() => expect(usePhotos.getState().items[1]!.clip).not.toBeNull());
  expect(requests.map(({ operation }) => operation)).toEqual(["AddPoints"]);
  send(clicked);
  await opening;
  expect(getState()).toMatchObject({ phase: "ready", notice: null, clip: { path: "uploads/b.jpg" } });
  expect(keptMasks(0)).toMatchObject([{ object: 1, counts: "04" }]);
});

test("clicks stay when one goes back to their photograph while another one is sent", async () => {
  answerWith(clicked, {}, {}, started("2"), facts);
  const { opening, sent } = await beginSending();
  editing.addPoint(POINT);
  await showPhoto(0);
  const signal = sending.uploadVideo.mock.calls[0]![3] as AbortSignal;
  expect(signal.aborted).toBe(true);
  sent();
  await opening;
  expect(getState()).toMatchObject({ phase: "ready", clip: { path: "uploads/a.jpg" }, session: { id: "2" } });
  expect(getState().scene.objects[0]!.prompts[0]?.points).toEqual([POINT]);
  expect(shown(1)).toBe("04");
});

test("what is done while another photograph is sent is the one that is shown", async () => {
  answerWith({}, started("2"), facts);
  const { opening, sent } = await beginSending();
  toggleDone();
  await showPhoto(1); // is sent already
  sent();
  await opening;
  expect(usePhotos.getState().items.map(({ done }) => done)).toEqual([true, false]);
  expect(sending.uploadVideo).toHaveBeenCalledOnce();
  expect(getState().clip?.path).toBe("uploads/b.jpg");
});

test("the next photograph is sent and encoded while one works on this one", async () => {
  const requests = answerWith(clicked, {}, {}, clicked, {}, started("2"), facts);
  usePhotos.setState({ items: [photos[0]!, { ...photos[1]!, clip: null, file: ADDED }], current: 0 });
  setState({ clip: photos[0]!.clip });
  sending.uploadVideo.mockReset();
  sending.uploadVideo.mockResolvedValueOnce(photos[1]!.clip);
  const stop = watchPhotos();
  editing.addPoint(POINT);
  const paths = () => requests.map(({ operation }) => operation);
  await vi.waitFor(() => expect(paths()).toContain("/api/photographs/prepare"));
  expect(getState()).toMatchObject({ sending: "", clip: { path: "uploads/a.jpg" } });
  editing.addPoint({ ...POINT, positive: false });
  await synchronise();
  await showPhoto(1);
  stop();
  expect(sending.uploadVideo).toHaveBeenCalledOnce();
  expect(paths().filter((path) => path === "/api/photographs/prepare")).toHaveLength(1);
});

test("a copy of the open photograph takes its place in the list, and a notice says so", async () => {
  const requests = answerWith(clicked, {}, {});
  usePhotos.setState({ items: [photos[0]!, { ...photos[1]!, id: 2, clip: null, file: ADDED }], current: 0 });
  setState({ clip: photos[0]!.clip });
  sending.uploadVideo.mockReset();
  sending.uploadVideo.mockResolvedValueOnce(photos[0]!.clip);
  const stop = watchPhotos();
  editing.addPoint(POINT);
  await vi.waitFor(() => expect(getState().notice?.text).toMatch(/“a” and “b” are the same photograph/));
  await vi.waitFor(() => expect(requests).toHaveLength(3)); // none is left for another test
  stop();
  expect(usePhotos.getState()).toMatchObject({ current: 2, items: [{ id: 2, name: "b" }] });
});

test("a file that was refused ahead of time is not sent again with each click", async () => {
  const requests = answerWith(clicked, {}, clicked);
  usePhotos.setState({ items: [photos[0]!, { ...photos[1]!, id: 3, clip: null, file: ADDED }], current: 0 });
  setState({ clip: photos[0]!.clip });
  sending.uploadVideo.mockReset();
  sending.uploadVideo.mockRejectedValue(new ApiError("refused", "damaged"));
  const stop = watchPhotos();
  for (const positive of [true, false]) {
    editing.addPoint({ ...POINT, positive });
    await synchronise();
    await vi.waitFor(() => expect(requests).toHaveLength(positive ? 2 : 3)); // the first one offers masks
  }
  stop();
  expect(sending.uploadVideo).toHaveBeenCalledOnce();
  expect(getState().notice).toBeNull(); // opening it says what is wrong
});

test("what is said of a photograph that is sent stays when the one before it is given up", async () => {
  answerWith({});
  const unsent = (id: number, name: string) => ({ ...photos[1]!, id, name, clip: null, file: ADDED });
  usePhotos.setState({ items: [photos[0]!, unsent(4, "b"), unsent(5, "c")], current: 0 });
  setState({ clip: photos[0]!.clip });
  sending.uploadVideo.mockReset();
  let refuse = (): void => undefined;
  sending.uploadVideo.mockImplementation((...[, , , signal]: [unknown, unknown, unknown, AbortSignal]) => {
    return new Promise((_, reject) => {
      refuse = () => reject(new ApiError("refused", "damaged"));
      signal.addEventListener("abort", () => reject(new DOMException("given up", "AbortError")));
    });
  });
  const given = showPhoto(4);
  await vi.waitFor(() => expect(getState().sending).toBe("Sending b, 2 of 3"));
  await vi.waitFor(() => expect(sending.uploadVideo).toHaveBeenCalledOnce());
  const chosen = showPhoto(5);
  await given;
  expect(getState().sending).toBe("Sending c, 3 of 3");
  await vi.waitFor(() => expect(sending.uploadVideo).toHaveBeenCalledTimes(2));
  refuse();
  await chosen;
  expect(getState().sending).toBe("");
});

test("a class that is given while a photograph is opened waits for it", () => {
  setState({ ...freshWork(), clip: photos[0]!.clip, session: null, phase: "opening" });
  editing.labelActive("dog");
  expect(getState().early).toHaveLength(1);
});

test("a photograph that cannot be opened is left although it was clicked", async () => {
  const { answer, send } = later();
  answerWith({}, answer, started("3"), facts);
  usePhotos.setState({ items: photos, current: 0 });
  setState({ clip: photos[0]!.clip });
  void showPhoto(1);
  await vi.waitFor(() => expect(isOpening(getState())).toBe(true));
  editing.addPoint(POINT);
  const leaving = showPhoto(0);
  send(refusal("NOT_FOUND"));
  await leaving;
  expect(getState()).toMatchObject({ phase: "ready", clip: { path: "uploads/a.jpg" } });
});
