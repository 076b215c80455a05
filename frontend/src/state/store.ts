import { create } from "zustand";
import type { Limits } from "../api/rest";
import type { Clip } from "../api/video";
import { DEFAULT_LOOK, type Look } from "../effects/look";
import type { Edges } from "../media/edges";
import { NO_MASKS, type Masks } from "../masks/masks";
import type { Size } from "../scene/geometry";
import type { Classes } from "../scene/classes";
import { emptyScene, type Scene } from "../scene/scene";
import { NO_HISTORY, type History } from "./history";
import { WHOLE_VIDEO, type Plan } from "./plan";

export interface Session {
  readonly id: string;
  readonly fps: number;
  readonly numFrames: number;
  /** The size of the file that the video was made of; null if that is not larger. */
  readonly source: Size | null;
}

/** The state of tracking; `stale` when prompts have changed since, `partial` when some frames are not tracked. */
export type Tracking =
  | { state: "never" | "stale" | "done" | "partial" | "cancelled" | "failed" }
  | { state: "running" | "cancelling"; done: number; total: number; framesPerSecond: number | null };

/** Objects and masks that undo restores. */
export interface Step {
  readonly scene: Scene;
  readonly masks: Masks;
}

export type Phase =
  | "starting" // the page requests its first video
  | "opening" // a session is being started
  | "ready"
  | "failed"; // no session could be started

/** What a click or drag on the frame does. */
export type Tool = "include" | "exclude" | "box" | "paint" | "wipe";

export type DialogName = "videos" | "help" | "download" | "models" | "classes";

/** What is asked before work is removed, with both answers. */
export interface Question {
  readonly title: string;
  readonly text: string;
  readonly no: string;
  readonly yes: string;
  readonly onYes: () => void;
  /** The dialog that asks, which is shown again. */
  readonly back?: DialogName | null;
}

export interface Notice {
  readonly tone: "info" | "error";
  readonly text: string;
}

export interface State {
  limits: Limits | null;
  clips: readonly Clip[];
  clip: Clip | null;
  session: Session | null;
  phase: Phase;
  problem: string; // why phase is "failed"
  sending: string; // the photograph that is sent, and how much of it; what is open stays so until then
  connected: boolean;
  elsewhere: boolean; // another tab has the video open, and saves the work on it
  notice: Notice | null;
  announcement: string; // read out by screen readers

  scene: Scene;
  history: History<Step>;
  active: number; // id of the object that clicks go to
  pending: boolean; // clicks wait for the server's answer
  early: readonly (() => void)[]; // edits that wait until the session of what is shown is open
  masks: Masks;
  tracking: Tracking;
  plan: Plan;
  classes: Classes; // of all videos and photographs
  strategy: string | null; // of new sessions; null for the server's

  frame: number; // visible, or being sought
  playing: boolean;
  following: boolean; // tracking shows each new frame until the user moves to another one
  hovered: number | null; // id of the object under the pointer
  tool: Tool;
  look: Look;
  edges: Edges; // of cut-outs and mattes in files
  dialog: DialogName | Question | null;
}

export const useStore = create<State>(() => ({
  limits: null,
  clips: [],
  clip: null,
  session: null,
  phase: "starting",
  problem: "",
  sending: "",
  connected: true,
  elsewhere: false,
  notice: null,
  announcement: "",
  ...freshWork(),
  classes: [],
  strategy: null,
  playing: false,
  following: true,
  hovered: null,
  tool: "include",
  look: DEFAULT_LOOK,
  edges: { kind: "hard", feather: 3 },
  dialog: null,
}));

export const { getState, setState } = useStore;

/** The state of a video without prompts. */
export function freshWork() {
  return {
    scene: emptyScene(),
    history: NO_HISTORY as History<Step>,
    active: 1,
    pending: false,
    early: [] as readonly (() => void)[],
    masks: NO_MASKS,
    tracking: { state: "never" } as Tracking,
    plan: WHOLE_VIDEO,
    frame: 0,
  };
}

/** Whether the open video or photograph is shown already while its session is being started. */
export function isOpening({ phase, clip, session }: State): boolean {
  return phase === "opening" && clip !== null && session === null;
}

export function isTracking(tracking: Tracking): boolean {
  return tracking.state === "running" || tracking.state === "cancelling";
}

export function announce(text: string): void {
  // The same text again is read again only if it differs.
  setState(({ announcement }) => ({ announcement: announcement === text ? `${text}\u00a0` : text }));
}

export function notify(tone: Notice["tone"], text: string): void {
  setState({ notice: { tone, text }, announcement: tone === "info" ? text : "" }); // errors are alerts
}
