import { beforeEach, expect, test, vi } from "vitest";
import { exportPhotos } from "../../src/photos/downloads";
import { removeClass, renameClass, watchReplaced } from "../../src/photos/classes";
import { usePhotos, type PhotoItem } from "../../src/photos/list";
import { openPhotosProject, projectOf } from "../../src/photos/project";
import { openDataFile } from "../../src/project/files";
import { makeProject, parseProject, withHistory, type Project } from "../../src/project/project";
import { addClass, isClasses, moveClass, namesOf } from "../../src/scene/classes";
import { COLOURS, type Scene } from "../../src/scene/scene";
import { setClasses, watchClasses } from "../../src/state/classes";
import * as editing from "../../src/state/editing";
import { freshWork, getState, setState, type Question } from "../../src/state/store";
import { forgetKnown, synchronise } from "../../src/state/synchronise";
import { answerWith, clicked } from "./answers";

type Saved = Map<string, Project>;
const IMAGE = "data:image/png;base64,AAAA";
const saved = vi.hoisted(() => new Map<string, unknown>()) as Saved;
vi.mock("idb-keyval", () => ({
  createStore: () => undefined,
  get: (path: string) => Promise.resolve(saved.get(path)),
  set: () => Promise.resolve(),
  del: () => Promise.resolve(),
  keys: () => Promise.resolve([...saved.keys()]),
  values: () => Promise.resolve([...saved.values()]),
  update: (path: string, change: (project?: Project) => Project) =>
    Promise.resolve(saved.set(path, change(saved.get(path)))),
}));

const kept = new Map<string, string>();
const POINT = { x: 0.25, y: 0.5, positive: true };
const CLIP = { path: "uploads/a.jpg", name: "a.jpg", url: "/uploads/a.jpg", poster: null, width: 2, height: 2 };
const FACTS = { fps: null, numFrames: 1, width: 2, height: 2 };
const started = { data: { startSession: { sessionId: "2" } } };
const names = () => namesOf(getState().classes);
const labels = ({ objects }: Scene) => objects.map(({ label }) => label ?? "");
const file = (content: unknown) => new File([JSON.stringify(content)], "a.json");

vi.stubGlobal("window", globalThis);
const heard: ((event: { key: string; newValue: string }) => void)[] = []; // of other tabs
vi.stubGlobal("addEventListener", (_: string, run: (typeof heard)[0]) => heard.push(run));
vi.stubGlobal("localStorage", {
  getItem: (key: string) => kept.get(key) ?? null,
  setItem: (key: string, value: string) => kept.set(key, value),
});
watchClasses();
watchReplaced();

beforeEach(() => {
  forgetKnown();
  saved.clear();
  usePhotos.setState({ items: [], current: null });
  const session = { id: "1", fps: 1, numFrames: 1, source: null };
  setState({ ...freshWork(), clip: CLIP, session, phase: "ready", connected: true, notice: null, dialog: null });
  setClasses([]);
  answerWith();
});

test("classes get free colours and can be moved; a damaged list is refused", () => {
  const two = addClass(addClass([], "dog", "#000000"), "cat");
  expect(two).toEqual([
    { name: "dog", colour: "#000000" },
    { name: "cat", colour: COLOURS[0] },
  ]);
  const three = addClass(two, "cow", "#000000");
  expect(three[2]!.colour).toBe(COLOURS[1]);
  expect(namesOf(moveClass(three, 2, -1))).toEqual(["dog", "cow", "cat"]);
  expect(namesOf(moveClass(three, 0, 1))).toEqual(["cat", "dog", "cow"]);
  expect(isClasses(three)).toBe(true);
  for (const wrong of [
    null,
    {},
    [null],
    [{ name: "", colour: "#000000" }],
    [{ name: "a", colour: "red" }],
    [...two, two[0]],
  ])
    expect(isClasses(wrong), JSON.stringify(wrong)).toBe(false);
});

test("a typed class joins the list, which is kept, and its objects are drawn in its colour", () => {
  editing.newObject();
  editing.newObject();
  editing.labelObject(1, " dog ");
  editing.labelObject(2, "cat");
  editing.labelObject(3, "dog");
  expect(getState().classes).toEqual([
    { name: "dog", colour: COLOURS[0] },
    { name: "cat", colour: COLOURS[1] },
  ]);
  expect(JSON.parse(kept.get("sam2fast-classes")!)).toEqual(getState().classes);
  setClasses(getState().classes.map((one) => (one.name === "dog" ? { ...one, colour: "#123456" } : one)));
  const colours = () => getState().scene.objects.map(({ colour }) => colour);
  expect(colours()).toEqual(["#123456", COLOURS[1], "#123456"]);
  editing.labelObject(3, "");
  expect(colours()).toEqual(["#123456", COLOURS[1], COLOURS[2]]);
  editing.undo();
  expect(colours()).toEqual(["#123456", COLOURS[1], "#123456"]);
});

test("a class stays with an object whose mask is edited", async () => {
  answerWith(clicked, clicked, {}, clicked);
  editing.addPoint(POINT);
  await synchronise();
  editing.labelObject(1, "dog");
  editing.addPoint({ ...POINT, positive: false });
  await synchronise();
  editing.deletePoint(1, 0, 1);
  await synchronise();
  editing.setAnswer(1, 0, { points: [POINT], box: null, mask: null }, { height: 2, width: 2, counts: "13" });
  editing.clearHere();
  expect(labels(getState().scene)).toEqual(["dog"]);
  for (let step = 0; step < 3; step += 1) editing.undo();
  expect(labels(getState().scene)).toEqual(["dog"]);
});

test("a class that another tab renames comes back by no object of this one", () => {
  editing.labelObject(1, "dog");
  const { colour } = getState().classes[0]!;
  const changed = { "sam2fast-replaced-class": ["dog", "hound", 1], "sam2fast-classes": [{ name: "hound", colour }] };
  kept.set("sam2fast-classes", JSON.stringify(changed["sam2fast-classes"]));
  for (const [key, value] of Object.entries(changed)) {
    for (const run of heard) run({ key, newValue: JSON.stringify(value) });
  }
  expect([names(), labels(getState().scene)]).toEqual([["hound"], ["hound"]]);
});

test("a class is renamed and removed everywhere, also in what undo restores", async () => {
  editing.labelObject(1, "dog");
  editing.renameObject(1, "Rex");
  const work = withHistory(makeProject(getState())!, getState().history);
  saved.set("uploads/b.jpg", { ...work, clip: { ...CLIP, path: "uploads/b.jpg" } });
  usePhotos.setState({ items: [{ id: 7, name: "b.jpg", work } as PhotoItem] });
  renameClass("dog", "hound");
  await vi.waitFor(() => expect(labels(saved.get("uploads/b.jpg")!.scene)).toEqual(["hound"]));
  expect(names()).toEqual(["hound"]);
  expect(labels(getState().scene)).toEqual(["hound"]);
  expect(labels(usePhotos.getState().items[0]!.work!.scene)).toEqual(["hound"]);
  expect(labels(saved.get("uploads/b.jpg")!.history!.past[1]!.scene)).toEqual(["hound"]);
  editing.undo();
  expect(labels(getState().scene)).toEqual(["hound"]);
  expect(names()).toEqual(["hound"]);
  await removeClass("hound");
  expect(names()).toEqual(["hound"]);
  expect(getState().dialog).toMatchObject({ title: "Remove “hound”?", text: /^2 objects in/, back: "classes" });
  (getState().dialog as Question).onYes();
  await vi.waitFor(() => expect(labels(saved.get("uploads/b.jpg")!.scene)).toEqual([""]));
  expect([names(), labels(getState().scene)]).toEqual([[], [""]]);
  editing.redo();
  expect([names(), labels(getState().scene)]).toEqual([[], [""]]);
});

test("the classes of a project that was saved by 0.2 join the list; those of a later one come first", async () => {
  editing.labelObject(1, "dog");
  const old = makeProject(getState())!;
  expect(old).not.toHaveProperty("classes");
  setClasses([{ name: "cat", colour: "#111111" }]);
  answerWith({}, started, FACTS, {});
  await openDataFile(file(old));
  expect(names()).toEqual(["cat", "dog"]);
  const own = [
    { name: "cow", colour: "#222222" },
    { name: "dog", colour: "#333333" },
  ];
  answerWith({}, started, FACTS, {});
  await openDataFile(file({ ...old, classes: own }));
  expect(names()).toEqual(["cow", "dog", "cat"]);
  expect(getState().scene.objects[0]!.colour).toBe("#333333");
  expect(() => parseProject(JSON.stringify({ ...old, classes: [{}] }))).toThrow(
    /the classes \(“classes”\) are missing/,
  );
});

test("projects and exports of photographs have the list", async () => {
  editing.labelObject(1, "dog");
  setClasses([{ name: "cat", colour: "#111111" }, ...getState().classes]);
  const work = makeProject(getState())!;
  const labelled = { ...work.scene.objects[0]!, label: "cow" };
  const unseen = { key: "", file: null, thumbnail: null, objects: 1, done: false };
  const item = (id: number) => ({ ...unseen, id, name: `${id}.jpg`, clip: { ...CLIP, path: `uploads/${id}.jpg` } });
  const shown = { ...work, scene: { objects: [labelled] }, look: { ...work.look, image: IMAGE } };
  const items = [1, 2].map((id): PhotoItem => ({ ...item(id), work: { ...shown, clip: item(id).clip } }));
  const project = await (await projectOf(items)).text();
  expect(project.split(IMAGE)).toHaveLength(2); // once for both
  expect(names()).toEqual(["cat", "dog", "cow"]);
  expect(namesOf((JSON.parse(project) as Project).classes!)).toEqual(["cat", "dog", "cow"]);
  const one = (await (await projectOf(items.slice(0, 1))).text()) satisfies string;
  expect(namesOf(parseProject(one).classes!)).toEqual(["cat", "dog", "cow"]);
  const sent: [string, string][] = [];
  vi.stubGlobal("fetch", (path: string, { body }: { body: string }) => {
    sent.push([path, body]);
    return Promise.resolve(new Response("{}"));
  });
  const { signal } = new AbortController();
  const options = { tolerance: 1, split: { percent: 20, seed: 3 }, crop: false };
  const photos = items.map((item) => ({ item, work: item.work! }));
  await exportPhotos("yolo", options, photos, signal);
  await exportPhotos("png", options, photos, signal);
  expect(sent.map(([path]) => path)).toEqual([
    "/api/photographs/export?format=yolo&tolerance=1&validation=20&seed=3",
    "/api/photographs/export?format=png&tolerance=1",
  ]);
  expect((JSON.parse(sent[0]![1]) as { classes: string[] }).classes).toEqual(["cat", "dog", "cow"]);
  setClasses([]);
  answerWith({}, started, FACTS, {});
  await openPhotosProject(project);
  expect(names()).toEqual(["cat", "dog", "cow"]);
  expect(usePhotos.getState().items.map(({ work }) => work?.look.image)).toEqual([IMAGE, IMAGE]);
});
