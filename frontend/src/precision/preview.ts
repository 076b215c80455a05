import { create } from "zustand";
import { asApiError } from "../api/errors";
import { previewMasks } from "../api/rest";
import type { Mask } from "../masks/rle";
import type { Spot } from "../scene/geometry";
import { findObject, promptAt } from "../scene/scene";
import { encodePrompt } from "../state/commands";
import { getState, isTracking, useStore } from "../state/store";
import { readStored, store } from "../state/stored";

/** Shows the mask that a click at the pointer would find. One request at a time; the newest position is next. */

const MIN_MS = 50; // from one request to the next
const KEY = "sam2fast-preview"; // in localStorage

interface Preview {
  isOn: boolean;
  mask: Mask | null;
}

export const usePreview = create<Preview>(() => ({ isOn: readStored(KEY) !== "off", mask: null }));

let wanted: Spot | null = null;
let running: AbortController | null = null;
let isSupported = true; // a server without the route is not asked again in this session

/** The pointer is at a spot of the frame, or has left it. */
export function hoverPreview(spot: Spot | null): void {
  wanted = spot;
  if (!spot) return endPreview();
  if (!running) void request();
}

/** Hides the preview; a request under way is given up, so that it delays no click. */
export function endPreview(): void {
  wanted = null;
  running?.abort();
  if (usePreview.getState().mask) usePreview.setState({ mask: null });
}

export function togglePreview(): void {
  const isOn = !usePreview.getState().isOn;
  endPreview();
  usePreview.setState({ isOn });
  store(KEY, isOn ? "on" : "off");
}

async function request(): Promise<void> {
  while (wanted && canPreview()) {
    const spot = wanted;
    wanted = null;
    running = new AbortController();
    const { signal } = running;
    const started = performance.now();
    const key = situation();
    try {
      const [best] = await previewMasks(getState().session!.id, clicksAt(spot), signal);
      if (!signal.aborted && key === situation()) usePreview.setState({ mask: best ?? null });
    } catch (error) {
      if (!signal.aborted && asApiError(error).failure === "refused") isSupported = false;
    }
    const rest = MIN_MS - (performance.now() - started);
    if (rest > 0) await new Promise((resolve) => setTimeout(resolve, rest));
  }
  running = null;
}

function canPreview(): boolean {
  const { phase, connected, playing, pending, tool, tracking, following, session } = getState();
  const isShown = !playing && !(isTracking(tracking) && following);
  const isClick = tool === "include" || tool === "exclude";
  return (
    usePreview.getState().isOn &&
    isSupported &&
    isShown &&
    isClick &&
    !pending &&
    connected &&
    phase === "ready" &&
    session !== null
  );
}

/** The active object's clicks with one more. */
function clicksAt({ x, y }: Spot) {
  const { scene, active, frame, tool } = getState();
  const prompt = promptAt(findObject(scene, active), frame);
  const points = [...prompt.points, { x, y, positive: tool === "include" }];
  return { objectId: active, frameIndex: frame, ...encodePrompt({ ...prompt, points }), refine: true };
}

/** Identifies what an answer is for. */
function situation(): string {
  const { session, active, frame, tool, scene } = getState();
  return JSON.stringify([session?.id, active, frame, tool, promptAt(findObject(scene, active), frame)]);
}

// A preview of another situation is wrong.
useStore.subscribe((state, before) => {
  const names = ["session", "active", "frame", "tool", "scene", "playing", "pending"] as const;
  if (state.session !== before.session) isSupported = true;
  if (names.some((name) => state[name] !== before[name])) usePreview.setState({ mask: null });
});
