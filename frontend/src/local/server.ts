import type { Models } from "../api/models";
import type { Clicks, Limits } from "../api/rest";
import type { Part } from "../api/upload";
import type { Mask } from "../masks/rle";
import type { Size } from "./arrays";
import { Refusal, type Answer, type Call } from "./calls";
import { ENDINGS, MAX_SECONDS, SEEN, convertVideo, type ExportTask, type Task } from "./convert";
import { exportFile } from "./exports";
import { keepVideo, readNumbering, readSource, readVideo, type Making, type Settings, type VideoFacts } from "./files";
import type { Strategy } from "./manifest";
import type { Model } from "./model";
import type { PageMasks } from "./pageMasks";
import { convertPhoto, isPhotoFile, LocalPhoto, PHOTO_ENDINGS } from "./photo";
import { exportPhotos, type PhotosRequest } from "./photoExports";
import { LocalSession, Queue, type FrameAnswer, type TrackRequest } from "./session";
import { sourceVideo } from "./sources";
import { sha256 } from "./split";
import { LocalVideo } from "./video";

const MAX_UPLOAD_MB = 500;
const MAX_OBJECTS = 16; // each keeps a memory of every tracked frame
const NO_END = 24 * 60 * 60; // seconds: sessions do not expire
const STRATEGIES: readonly { readonly name: Strategy; readonly about: string }[] = [
  { name: "sam2", about: "SAM 2: the newest six frames" },
  { name: "together", about: "Together: suggested for several objects, above all look-alikes that cross" },
];
const STREAM = "multipart/x-savi-stream; boundary=frame";
const SESSION = /^\/api\/sessions\/([^/?]+)(?:\/(\w+))?$/;

interface Input {
  readonly path: string;
  readonly sessionId: string;
  readonly objectId: number;
  readonly frameIndex: number;
  readonly points: readonly number[][];
  readonly labels: readonly number[];
}

/** Answers the requests of the page as `sam2fast serve` does, with a model in the browser. */
export class LocalServer {
  private readonly sessions = new Map<string, LocalSession>();
  private readonly queue = new Queue();
  /** On the photograph that is opened next; it may still be encoded. */
  private prepared: { readonly path: string; readonly session: Promise<LocalSession> } | null = null;
  private readonly jobs = new Map<string, number>(); // the share that is done, by the request's id

  /** @param root the page's address, with a slash at the end */
  constructor(
    private readonly root: string,
    private readonly settings: Settings,
    private readonly loading: Promise<Model>,
  ) {}

  /** @param signal aborted when the page waits for the answer no more */
  async answer(call: Call, signal: AbortSignal): Promise<Answer> {
    const isGraphQL = call.path.startsWith("/graphql");
    try {
      return isGraphQL ? json({ data: await this.graphql(call, signal) }) : await this.rest(call, signal);
    } catch (error) {
      const { code, message, status } = error instanceof Refusal ? error : internal(error);
      if (isGraphQL) return json({ data: null, errors: [{ message, extensions: { code } }] });
      return { ...json({ error: { code, message } }), status };
    }
  }

  private async rest(call: Call, signal: AbortSignal): Promise<Answer> {
    const url = new URL(call.path, this.root);
    const body = typeof call.body === "string" ? (JSON.parse(call.body) as unknown) : null;
    if (url.pathname === "/healthy") return { status: 200, type: "text/plain", body: "OK" };
    if (url.pathname === "/api/limits") return json(this.limits());
    if (url.pathname === "/api/models") return json(await this.models());
    if (url.pathname === "/api/sessions") {
      const { path, strategy } = body as { path: string; strategy: string };
      return json({ sessionId: await this.startSession(path, strategy) });
    }
    if (url.pathname === "/propagate_in_video") return this.track(body as TrackRequest & { session_id: string });
    const job = /^\/api\/jobs\/([^/]+)$/.exec(url.pathname)?.[1];
    if (job !== undefined) return json({ share: this.jobs.get(job) ?? null });
    const format = url.searchParams.get("format") ?? "";
    if (url.pathname === "/api/photographs/export") {
      const form = { feather: featherOf(url), crop: url.searchParams.get("crop") === "true" };
      const percent = Number(url.searchParams.get("validation"));
      const split = percent > 0 ? { percent, seed: Number(url.searchParams.get("seed")) } : null;
      return file(await exportPhotos(format, body as PhotosRequest, split, (path) => this.read(path), form));
    }
    if (url.pathname === "/api/photographs/prepare") {
      const { path } = body as { path: string };
      const session = this.open(path);
      this.prepared = { path, session };
      await (await session).prepare();
      return json({});
    }
    const [, id, action] = SESSION.exec(url.pathname) ?? [];
    if (id === undefined) throw new Refusal("NOT_FOUND", `this page has nothing at ${url.pathname}`, 404);
    const session = this.session(id);
    switch (action) {
      case undefined: {
        const { fps, count: numFrames, width, height } = session.video;
        const facts = { path: session.path, fps, numFrames, width, height, secondsLeft: NO_END, problem: null };
        const source = (await readSource(session.path))?.size ?? null;
        return json({ ...facts, source, numbering: await readNumbering(session.path) });
      }
      case "renew":
        return json({ secondsLeft: NO_END });
      case "masks": {
        const { objectId, frameIndex, mask } = body as { objectId: number; frameIndex: number; mask: Runs };
        await session.setMask(frameIndex, objectId, { ...sizeOf(mask), counts: mask.counts });
        return json({});
      }
      case "preview": {
        const found = await session.preview(body as Clicks, signal);
        return json({ masks: found.map(({ iou, ...mask }) => ({ ...asRuns(mask), iou })) });
      }
      case "export":
        return file(
          await this.watched(url, signal, (task) =>
            this.export(session, format, body as PageMasks, url.searchParams.get("size") !== "seen", {
              ...task,
              quality: url.searchParams.get("quality") === "smaller" ? "smaller" : "high",
              feather: featherOf(url),
            }),
          ),
        );
      default:
        throw new Refusal("NOT_FOUND", `${action} needs sam2fast serve: this page has no server`, 404);
    }
  }

  /** Runs a request whose job tells how much is done. */
  private async watched<T>(url: URL, signal: AbortSignal, work: (task: Task) => Promise<T>): Promise<T> {
    const job = url.searchParams.get("job") ?? "";
    try {
      return await work({ report: (share) => this.jobs.set(job, share), signal });
    } finally {
      this.jobs.delete(job);
    }
  }

  private async export(
    session: LocalSession,
    format: string,
    page: PageMasks,
    isSource: boolean,
    task: ExportTask,
  ): Promise<Blob> {
    const { video: seen } = session;
    if (seen instanceof LocalPhoto) throw new Refusal("BAD_INPUT", "this is a photograph: see photographs/export");
    const whole = await readSource(session.path);
    const source = isSource ? whole : null;
    if (whole && !source) task = { ...task, feather: (task.feather * seen.height) / whole.size.height };
    if (!source) return exportFile(format, page, seen, await this.read(session.path), session.path, task);
    const half = (begin: number): ExportTask => ({ ...task, report: (share) => task.report((begin + share) / 2) });
    const video = await sourceVideo(session.path, source, half(0));
    const facts = { fps: seen.fps, count: seen.count, ...source.size };
    const masks = await session.resizeMasks(page, source.size);
    return exportFile(format, masks, facts, video, session.path, half(1));
  }

  private async graphql({ path, body, file }: Call, signal: AbortSignal): Promise<unknown> {
    const { query, variables } = JSON.parse(body as string) as {
      query: string;
      variables: { input: Input; start?: number; seconds?: number };
    };
    const input = variables.input;
    const operation = /(?:query|mutation) (\w+)/.exec(query)?.[1] ?? "";
    switch (operation) {
      case "Gallery":
        return { videos: { edges: this.settings.videos.map((video) => ({ node: asVideo(video) })) } };
      case "DefaultVideo":
        return { defaultVideo: asVideo(this.settings.videos[0]!) };
      case "UploadVideo":
        return this.watched(new URL(path, this.root), signal, async (task) => {
          const part = {
            start: variables.start ?? 0,
            seconds: Math.min(variables.seconds ?? MAX_SECONDS, MAX_SECONDS),
          };
          return { uploadVideo: asVideo(await this.upload(file!, part, task)) };
        });
      case "StartSession":
        return { startSession: { sessionId: await this.startSession(input.path, null) } };
      case "CloseSession":
        return { closeSession: { success: await this.closeSession(input.sessionId) } };
      case "AddPoints": {
        const { frameIndex, objectId, points, labels } = input;
        return {
          addPoints: asFrame(await this.session(input.sessionId).setPoints(frameIndex, objectId, points, labels)),
        };
      }
      case "ClearPointsInFrame": {
        const cleared = await this.session(input.sessionId).clearPoints(input.frameIndex, input.objectId);
        return { clearPointsInFrame: asFrame(cleared) };
      }
      case "RemoveObject":
        return { removeObject: [asFrame(await this.session(input.sessionId).removeObject(input.objectId))] };
      case "ClearPointsInVideo":
        await this.session(input.sessionId).clear();
        return { clearPointsInVideo: { success: true } };
      case "CancelPropagateInVideo":
        this.session(input.sessionId).cancel();
        return { cancelPropagateInVideo: { success: true } };
      default:
        throw new Refusal("BAD_INPUT", `${operation} needs sam2fast serve: this page has no server`);
    }
  }

  private limits(): Limits & { maxObjects: number } {
    const { model, imageSize } = this.settings;
    return {
      ...{ maxUploadMB: MAX_UPLOAD_MB, maxSeconds: MAX_SECONDS, formats: ENDINGS, maxObjects: MAX_OBJECTS },
      ...{ maxSessions: 1, model, imageSize, photoFormats: PHOTO_ENDINGS },
      lacks: [
        "importing masks",
        "models",
        "everything",
        "similar",
        "matte",
        "prores_mov",
        "object_mattes",
        "object_cutouts",
        "label-studio",
        "geojson",
        "simplifying",
      ],
    };
  }

  private async models(): Promise<Models> {
    const { model: name, imageSize } = this.settings;
    const about = "The model of this page. It runs in this browser.";
    const model = { name, title: name, megabytes: 0, about, state: "ready", share: 1, problem: null } as const;
    return {
      ...{ current: name, device: "", imageSize, mayChange: false, offline: null, models: [model] },
      ...{ strategies: STRATEGIES, strategy: (await this.loading).manifest.strategy },
    };
  }

  private async startSession(path: string, strategy: string | null): Promise<string> {
    const known = STRATEGIES.find(({ name }) => name === strategy);
    if (strategy !== null && !known) {
      const names = STRATEGIES.map(({ name }) => name).join(" or ");
      throw new Refusal("BAD_INPUT", `a page without a server has no strategy ${strategy}; expected ${names}`);
    }
    const { prepared } = this;
    this.prepared = null;
    const session = await (prepared?.path === path ? prepared.session : this.open(path, known?.name));
    this.sessions.set(session.id, session);
    return session.id;
  }

  private async open(path: string, strategy: Strategy | null = null): Promise<LocalSession> {
    const kind = isPhotoFile(path) ? LocalPhoto : LocalVideo;
    const video = await kind.open(await this.read(path), this.settings.imageSize);
    return new LocalSession(path, video, this.loading, this.queue, strategy);
  }

  private async closeSession(id: string): Promise<boolean> {
    const session = this.sessions.get(id);
    this.sessions.delete(id);
    await session?.close();
    return session !== undefined;
  }

  private session(id: string): LocalSession {
    const session = this.sessions.get(id);
    if (!session) throw new Refusal("NO_SESSION", "the session was closed", 404);
    return session;
  }

  private async track(request: TrackRequest & { session_id: string }): Promise<Answer> {
    const frames = await this.session(request.session_id).startTrack(request);
    return { status: 200, type: STREAM, body: parts(frames) };
  }

  private async upload(file: File, part: Part, task: Task): Promise<VideoFacts> {
    if (isPhotoFile(file.name)) {
      const { photo, suffix, size } = await convertPhoto(file);
      return keep(photo, suffix, size, { source: null, numbering: null });
    }
    const { video, size, whole, numbering } = await convertVideo(file, part, SEEN, task);
    const isLarger = whole.width !== size.width || whole.height !== size.height;
    const source = isLarger ? { file, part, size: whole } : null;
    return keep(video, ".mp4", size, { source, numbering });
  }

  private async read(path: string): Promise<Blob> {
    const file = await readVideo(this.root, path);
    if (!file) throw new Refusal("NOT_FOUND", `there is no video ${path} in this browser or beside this page`, 404);
    return file;
  }
}

/** Pixels of the source, of soft outlines. */
function featherOf({ searchParams }: URL): number {
  return searchParams.get("edges") === "feather" ? Number(searchParams.get("feather")) : 0;
}

/** Keeps an upload in the browser, named by its content. */
async function keep(file: Blob, suffix: string, size: Size, making: Making): Promise<VideoFacts> {
  const path = `uploads/${await sha256(await file.arrayBuffer())}${suffix}`;
  await keepVideo(path, file, making);
  return { path, posterPath: null, ...size };
}

interface Runs {
  readonly size: readonly [height: number, width: number];
  readonly counts: string;
}

function sizeOf({ size: [height, width] }: Runs) {
  return { height, width };
}

function asRuns({ height, width, counts }: Mask): Runs {
  return { size: [height, width], counts };
}

function asVideo(video: VideoFacts) {
  return { ...video, url: video.path, posterUrl: video.posterPath ?? "" };
}

function asFrame({ frame, masks }: FrameAnswer) {
  const rleMaskList = [...masks].map(([objectId, mask]) => ({ objectId, rleMask: { ...asRuns(mask), order: "F" } }));
  return { frameIndex: frame, rleMaskList };
}

/** The parts of the stream of tracked frames, as the server's. */
async function* parts(frames: AsyncIterable<FrameAnswer>): AsyncGenerator<string, void> {
  for await (const { frame, masks } of frames) {
    const results = [...masks].map(([object_id, { scores, ...mask }]) => {
      return { object_id, mask: asRuns(mask), iou: scores?.iou, object_score: scores?.presence };
    });
    const body = JSON.stringify({ frame_index: frame, results }); // ASCII: a byte is a character
    yield `--frame\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  }
}

function json(content: unknown): Answer {
  return { status: 200, type: "application/json", body: JSON.stringify(content) };
}

function file(content: Blob): Answer {
  return { status: 200, type: content.type, body: content };
}

function internal(error: unknown): Refusal {
  console.warn(error);
  return new Refusal("INTERNAL", error instanceof Error ? error.message : String(error), 500);
}
