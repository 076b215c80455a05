import { useCallback, useEffect, useLayoutEffect, useRef, useState, type RefObject } from "react";
import { firstPromptedFrame } from "../scene/scene";
import { isTracking, useStore, type State } from "../state/store";
import { readStored, store } from "../state/stored";
import { placeBeside } from "./place";

interface Step {
  /** Select the element that the mark points to; the first one that is visible. */
  readonly targets: readonly string[];
  readonly title: string;
  readonly text: string;
  /** Whether the user has done it. */
  readonly isDone: (state: State) => boolean;
}

const KEY = "sam2fast-coach"; // in localStorage; where nothing is remembered, hints would come at every visit

const hasPrompt = ({ scene }: State) => firstPromptedFrame(scene) !== null;

const STEPS: readonly Step[] = [
  {
    targets: [".frame"],
    title: "Click an object",
    text: "One click in the video selects it. Click again where the mask misses a part; right click or press long where it has too much.",
    isDone: hasPrompt,
  },
  {
    targets: [".add-object", ".sheet-tabs button"],
    title: "Another object? Add it first",
    text: "Use this button or press N. Without it, the next click belongs to the same object. L gives it a class, for training.",
    isDone: ({ scene }) => scene.objects.length > 1,
  },
  {
    targets: [".actions"],
    title: "Track, then download",
    text: "Tracking finds the objects in all frames. Correct a frame by a click, track again, and download what you see.",
    isDone: ({ tracking }) => isTracking(tracking),
  },
];

/** Three hints on the first visit. Doing what one says shows the next; Escape ends them. */
export function CoachMarks() {
  const [step, setStep] = useState(() => (readStored(KEY) !== null ? STEPS.length : 0));
  const isReady = useStore((state) => state.phase === "ready" && state.dialog === null);
  const isDone = useStore((state) => STEPS[step]?.isDone(state) ?? false);
  const end = useCallback(() => {
    store(KEY, "seen");
    setStep(STEPS.length);
  }, []);
  const next = useCallback(() => (step + 1 < STEPS.length ? setStep(step + 1) : end()), [step, end]);

  if (isDone) next(); // React renders again before it shows anything
  const current = STEPS[step];
  if (!isReady || !current || isDone) return null;
  return <CoachMark key={step} step={step} {...current} onNext={next} onEnd={end} />;
}

interface MarkProps extends Step {
  step: number;
  onNext: () => void;
  onEnd: () => void;
}

function CoachMark({ step, targets, title, text, onNext, onEnd }: MarkProps) {
  const mark = useRef<HTMLElement>(null);
  const style = usePlace(targets, mark);
  const next = useRef<HTMLButtonElement>(null);
  const isLast = step + 1 === STEPS.length;

  useEffect(() => {
    // What the user works with keeps the focus.
    if (step > 0 && document.activeElement === document.body) next.current?.focus({ preventScroll: true });
  }, [step]);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key === "Escape" && !event.defaultPrevented) onEnd();
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, [onEnd]);

  return (
    <section className="coach" aria-label={`Hint ${step + 1} of ${STEPS.length}`} ref={mark} style={style}>
      <h2>{title}</h2>
      <p>{text}</p>
      <footer>
        <small>
          {step + 1} of {STEPS.length}
        </small>
        {!isLast && (
          <button type="button" className="quiet-button skip" onClick={onEnd}>
            Skip
          </button>
        )}
        <button type="button" ref={next} className={isLast ? "primary skip" : "primary"} onClick={onNext}>
          {isLast ? "Done" : "Next"}
        </button>
      </footer>
    </section>
  );
}

/** Places the mark beside its target, and not over the frame if there is other room. */
function usePlace(targets: readonly string[], mark: RefObject<HTMLElement | null>): React.CSSProperties {
  const [style, setStyle] = useState<React.CSSProperties>({ opacity: 0 }); // hidden elements take no focus
  useLayoutEffect(() => {
    const place = () => {
      const found = targets.flatMap((selector) => [...document.querySelectorAll(selector)]);
      const target = found.find((element) => element.getClientRects().length > 0);
      const frame = document.querySelector(".frame");
      if (!target || !frame || !mark.current) return;
      const size = { width: mark.current.offsetWidth, height: mark.current.offsetHeight };
      const room = { width: innerWidth, height: innerHeight };
      setStyle(placeBeside(target.getBoundingClientRect(), size, room, frame.getBoundingClientRect()));
    };
    place();
    const timer = setInterval(place, 400); // panels move when objects are added
    window.addEventListener("resize", place);
    return () => {
      clearInterval(timer);
      window.removeEventListener("resize", place);
    };
  }, [targets, mark]);
  return style;
}
