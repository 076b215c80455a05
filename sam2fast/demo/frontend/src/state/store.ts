import { create } from "zustand";
import type { Limits } from "../api/rest";
import type { Clip } from "../api/video";
import { DEFAULT_LOOK, type Look } from "../effects/look";
import { MaskStore } from "../masks/maskStore";
import type { Tool } from "../player/gestures";
import { NO_HISTORY, type History } from "./history";
import { emptyScene, type Scene } from "./scene";

export interface Session {
  readonly id: string;
  readonly fps: number;
  readonly numFrames: number;
}

/** The state of tracking; `stale` when prompts have changed since. */
export type Tracking =
  { state: "never" | "stale" | "done" | "cancelled" | "failed" } | { state: "running" | "cancelling"; done: number };

export type Phase =
  | "starting" // the page requests its first video
  | "opening" // a session is being started
  | "ready"
  | "expired" // the server has closed the session
  | "failed"; // no session could be started

export type DialogName = "videos" | "help" | "download" | "discard";

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
  connected: boolean;
  notice: Notice | null;
  announcement: string; // read out by screen readers

  scene: Scene;
  history: History<Scene>;
  active: number; // id of the object that clicks go to
  pending: boolean; // clicks wait for the server's answer
  maskStore: MaskStore; // changes in place, and `masksVersion` with it
  masksVersion: number;
  tracking: Tracking;
  downloaded: Scene | null; // the scene of the last download; null if its masks have changed since

  frame: number; // visible, or being sought
  playing: boolean;
  following: boolean; // tracking shows each new frame until the user moves to another one
  hovered: number | null; // id of the object under the pointer
  tool: Tool;
  look: Look;
  dialog: DialogName | null;
  chosen: Clip | null; // the video of the "discard" dialog
}

export const useStore = create<State>(() => ({
  limits: null,
  clips: [],
  clip: null,
  session: null,
  phase: "starting",
  problem: "",
  connected: true,
  notice: null,
  announcement: "",
  ...freshWork(),
  playing: false,
  following: true,
  hovered: null,
  tool: "include",
  look: DEFAULT_LOOK,
  dialog: null,
  chosen: null,
}));

export const { getState, setState } = useStore;

/** The state of a video without prompts. */
export function freshWork() {
  return {
    scene: emptyScene(),
    history: NO_HISTORY as History<Scene>,
    active: 1,
    pending: false,
    maskStore: new MaskStore(),
    masksVersion: 0,
    tracking: { state: "never" } as Tracking,
    downloaded: null as Scene | null,
    frame: 0,
  };
}

export function isTracking(tracking: Tracking): boolean {
  return tracking.state === "running" || tracking.state === "cancelling";
}

export function announce(text: string): void {
  setState({ announcement: text });
}

export function notify(tone: Notice["tone"], text: string): void {
  setState({ notice: { tone, text }, announcement: text });
}

/** Changes masks in place and notifies all subscribers. */
export function changeMasks(change: (maskStore: MaskStore) => void): void {
  const { maskStore, masksVersion } = getState();
  change(maskStore);
  setState({ masksVersion: masksVersion + 1 });
}
