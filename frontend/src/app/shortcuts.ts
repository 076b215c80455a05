import { useEffect } from "react";
import { isPhoto } from "../api/video";
import { stepPhoto, toggleDone } from "../photos/list";
import { goOn } from "../photos/similar";
import { toggleCandidate, toggleEverything, useEverything } from "../precision/everything";
import { goTo, step, togglePlay } from "../player/playback";
import { panByShares, showWhole, zoomBy, ZOOM_STEP } from "../player/zoom";
import { resizeBrush } from "../precision/brush";
import { cycleCandidates } from "../precision/candidates";
import { togglePreview } from "../precision/preview";
import { findObject } from "../scene/scene";
import * as editing from "../state/editing";
import { announce, getState, isTracking, notify, setState, type Tool } from "../state/store";
import { cancelTracking, track } from "../state/track";
import { goToWeakest } from "../timeline/ConfidenceLane";

type Binding = [matches: (event: KeyboardEvent) => boolean, run: (event: KeyboardEvent) => void];

interface Shortcut {
  /** As shown in the help. */
  readonly keys: string;
  readonly does: string;
  /** What it is for; without it both. */
  readonly only?: "videos" | "photographs";
  readonly bindings: readonly Binding[];
}

const BRUSH_STEP = 1.25;
const PAN = 0.15; // of the room

const isCommand = (event: KeyboardEvent) => event.ctrlKey || event.metaKey;

/** Matches a key without Ctrl, Meta and Alt; with `shift` undefined, Shift does not matter. */
function key(name: string, shift?: boolean) {
  return (event: KeyboardEvent) =>
    event.key.toLowerCase() === name &&
    !isCommand(event) &&
    !event.altKey &&
    (shift === undefined || event.shiftKey === shift);
}

function command(name: string, shift: boolean) {
  return (event: KeyboardEvent) =>
    event.key.toLowerCase() === name && isCommand(event) && !event.altKey && event.shiftKey === shift;
}

/** The number of a digit's key, wherever its keyboard has the digit, or of the keypad; 0 for other keys. */
function digitOf(event: KeyboardEvent): number {
  if (isCommand(event) || event.altKey) return 0;
  return Number(/^Digit([1-9])$/.exec(event.code)?.[1] ?? /^[1-9]$/.exec(event.key)?.[0] ?? 0);
}

/** Some keyboards have these on digits. */
const isZoom = ({ key }: KeyboardEvent) => key === "+" || key === "-";

const alt = (name: string) => (event: KeyboardEvent) => event.altKey && event.key.toLowerCase() === name;

const choose = (tool: Tool) => () => setState({ tool });

const SHORTCUTS: readonly Shortcut[] = [
  {
    keys: "Page Up, Page Down",
    does: "Previous or next photograph",
    only: "photographs",
    bindings: [
      [key("pageup"), () => stepPhoto(-1)],
      [key("pagedown"), () => stepPhoto(1)],
    ],
  },
  {
    keys: "A",
    does: "Find everything in the photograph, or cancel",
    only: "photographs",
    bindings: [[key("a"), toggleEverything]],
  },
  {
    keys: "F",
    does: "The selected object in the next photographs; then: add the chosen candidates, and the next photograph",
    only: "photographs",
    bindings: [[key("f"), goOn]],
  },
  { keys: "X", does: "Done, and the next photograph", only: "photographs", bindings: [[key("x"), toggleDone]] },
  { keys: "Space", does: "Play or pause", only: "videos", bindings: [[key(" "), togglePlay]] },
  {
    keys: "← →",
    does: "One frame back or forward",
    only: "videos",
    bindings: [
      [key("arrowleft", false), () => step(-1)],
      [key("arrowright", false), () => step(1)],
    ],
  },
  {
    keys: "Shift ← →",
    does: "Ten frames back or forward",
    only: "videos",
    bindings: [
      [key("arrowleft", true), () => step(-10)],
      [key("arrowright", true), () => step(10)],
    ],
  },
  {
    keys: "Home, End",
    does: "First or last frame",
    only: "videos",
    bindings: [
      [key("home"), () => goTo(0)],
      [key("end"), () => goTo(Infinity)],
    ],
  },
  {
    keys: "[ ]",
    does: "Track a range: it begins or ends at this frame",
    only: "videos",
    bindings: [
      [key("["), () => markRange("first")],
      [key("]"), () => markRange("last")],
    ],
  },
  { keys: "K", does: "Track, or cancel tracking", only: "videos", bindings: [[key("k"), toggleTracking]] },
  { keys: "N", does: "New object", bindings: [[key("n"), editing.newObject]] },
  {
    keys: "1 – 9",
    does: "Select an object, or choose a candidate",
    bindings: [
      [(event) => digitOf(event) > 0 && !event.shiftKey && !isZoom(event), (event) => chooseObject(digitOf(event))],
    ],
  },
  {
    keys: "Shift 1 – 9",
    does: "Give the object this class of the list",
    bindings: [[(event) => digitOf(event) > 0 && event.shiftKey, (event) => chooseClass(digitOf(event))]],
  },
  { keys: "L", does: "Class of the object; Enter goes back", bindings: [[key("l"), focusLabel]] },
  {
    keys: "I, E, B",
    does: "Tools: include, exclude, box",
    bindings: [
      [key("i"), choose("include")],
      [key("e"), choose("exclude")],
      [key("b"), choose("box")],
    ],
  },
  {
    keys: "P, R",
    does: "Brush: paint, or wipe",
    bindings: [
      [key("p"), choose("paint")],
      [key("r"), choose("wipe")],
    ],
  },
  {
    keys: ", .",
    does: "Smaller or larger brush",
    bindings: [
      [key(","), () => resizeBrush(1 / BRUSH_STEP)],
      [key("."), () => resizeBrush(BRUSH_STEP)],
    ],
  },
  {
    keys: "C, Shift C",
    does: "The next or the previous mask for the first click",
    bindings: [
      [key("c", false), () => cycleCandidates(1)],
      [key("c", true), () => cycleCandidates(-1)],
    ],
  },
  { keys: "V", does: "Preview of the mask under the pointer on or off", bindings: [[key("v"), togglePreview]] },
  {
    keys: "+ − 0",
    does: "Zoom in, out, and show the whole frame",
    bindings: [
      [key("+"), () => zoomBy(ZOOM_STEP)],
      [key("="), () => zoomBy(ZOOM_STEP)],
      [key("-"), () => zoomBy(1 / ZOOM_STEP)],
      [key("0"), showWhole],
    ],
  },
  {
    keys: "Alt and arrows",
    does: "Move the zoomed frame",
    bindings: [
      [alt("arrowleft"), () => panByShares(-PAN, 0)],
      [alt("arrowright"), () => panByShares(PAN, 0)],
      [alt("arrowup"), () => panByShares(0, -PAN)],
      [alt("arrowdown"), () => panByShares(0, PAN)],
    ],
  },
  {
    keys: "W",
    does: "The frame with the least confidence; again: the next one",
    only: "videos",
    bindings: [[key("w"), goToWeakest]],
  },
  {
    keys: "Z, Ctrl Z",
    does: "Undo",
    bindings: [
      [key("z", false), editing.undo],
      [command("z", false), editing.undo],
    ],
  },
  {
    keys: "Shift Z, Ctrl Y",
    does: "Redo",
    bindings: [
      [key("z", true), editing.redo],
      [command("z", true), editing.redo],
      [command("y", false), editing.redo],
    ],
  },
  {
    keys: "Delete",
    does: "Delete the object's clicks and box on this frame",
    bindings: [
      [key("delete"), editing.clearHere],
      [key("backspace"), editing.clearHere],
    ],
  },
  { keys: "D", does: "Download", bindings: [[key("d"), openDownloads]] },
  { keys: "?", does: "This help", bindings: [[key("?"), () => setState({ dialog: "help" })]] },
];

/** The shortcuts for what is open. */
export function currentShortcuts(): readonly Shortcut[] {
  const { clip } = getState();
  const kind = clip && isPhoto(clip) ? "photographs" : "videos";
  return SHORTCUTS.filter(({ only }) => only === undefined || only === kind);
}

export function toggleTracking(): void {
  if (isTracking(getState().tracking)) void cancelTracking();
  else void track();
}

function openDownloads(): void {
  if (getState().phase === "ready") setState({ dialog: "download" });
}

function markRange(end: "first" | "last"): void {
  const { plan, frame, session } = getState();
  if (!session) return;
  const range = plan.extent === "range" ? plan : { ...plan, first: 0, last: session.numFrames - 1 };
  setState({ plan: { ...range, extent: "range", [end]: frame } });
}

function chooseObject(place: number): void {
  const { candidates } = useEverything.getState();
  if (candidates) return candidates.slice(place - 1, place).forEach(({ id }) => toggleCandidate(id));
  const object = getState().scene.objects[place - 1];
  if (object) setState({ active: object.id });
}

function chooseClass(place: number): void {
  const { classes, scene, active } = getState();
  const [chosen, object] = [classes[place - 1], findObject(scene, active)];
  if (!chosen) return notify("info", `There is no class ${place} yet. Press L to type one.`);
  if (!object) return;
  if (object.label !== chosen.name) editing.labelActive(chosen.name);
  announce(`${object.name}: ${chosen.name}.`);
}

function focusLabel(): void {
  document.querySelector<HTMLElement>(".object.active .label-field")?.focus();
}

/** Handles the page's shortcuts. Fields, dialogs and focused controls keep their own keys. */
export function useShortcuts(): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.defaultPrevented || getState().dialog || target.closest("input:not([type=checkbox]), select")) return;
      if (event.key === " " && target.closest("button, a, input")) return;
      const found = currentShortcuts()
        .flatMap(({ bindings }) => bindings)
        .find(([matches]) => matches(event));
      if (!found) return;
      event.preventDefault();
      found[1](event);
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, []);
}
