import { useEffect, useMemo, useRef, useState } from "react";
import { loadBackdrop, readBackdrop } from "../effects/backdrop";
import { WORDS } from "../effects/backgrounds";
import {
  BACKGROUND_EFFECTS,
  COLOUR,
  MAX_WORDS,
  OBJECT_EFFECTS,
  PRESETS,
  isSameLook,
  nextChoice,
  surprise,
  type Choice,
  type Look,
} from "../effects/look";
import { drawLook, useSmallFrame, type SmallFrame } from "./effectPreviews";
import { notify, setState, useStore } from "../state/store";
import { FileButton } from "../ui/FileButton";
import { Icon } from "../ui/Icon";

/** Selects how objects and background are drawn. Each effect is shown on the current frame. Photographs hide it first. */
export function LookPanel({ isPhoto }: { isPhoto: boolean }) {
  const [isWanted, setWanted] = useState(false);
  const isClosed = isPhoto && !isWanted;
  const look = useStore((state) => state.look);
  const panel = useRef<HTMLElement>(null);
  const frame = useSmallFrame(panel);
  const [loaded, setLoaded] = useState<string>();
  const small = useMemo(() => frame && { ...frame, loaded }, [frame, loaded]); // previews are drawn again
  // The image is drawn when it is decoded, also that of an earlier visit.
  useEffect(() => {
    void loadBackdrop(look.image).then(() => {
      setLoaded(look.image);
      setState(({ look }) => ({ look: { ...look } }));
    });
  }, [look.image]);
  const choose = async ([file]: File[]) => {
    try {
      const image = await readBackdrop(file!);
      setState(({ look }) => ({ look: { ...look, image } }));
    } catch {
      notify("error", "This browser cannot read the image; convert it to JPEG or PNG.");
    }
  };
  return (
    <section className={`panel look ${isClosed ? "closed" : ""}`} aria-label="Effects" ref={panel}>
      <header>
        <h2>Effects</h2>
        {isPhoto && (
          <button
            type="button"
            className="quiet-button unfold"
            aria-expanded={isWanted}
            onClick={() => setWanted(!isWanted)}
          >
            {isWanted ? "Hide" : "Show"}
            <span className="visually-hidden"> effects</span>
          </button>
        )}
        <button type="button" className="quiet-button" onClick={() => setState({ look: surprise(look) })}>
          <Icon name="sparkles" />
          Surprise me
        </button>
      </header>
      <div className="effects" role="group" aria-label="Ready-made effects">
        {PRESETS.map((preset) => (
          <button
            key={preset.name}
            type="button"
            aria-pressed={isSameLook(preset.look, look)}
            onClick={() => setState({ look: { ...look, ...preset.look } })}
          >
            <Preview small={small} look={preset.look} />
            <span>{preset.name}</span>
          </button>
        ))}
      </div>
      <EffectList
        title="Objects"
        table={OBJECT_EFFECTS}
        choice={look.objects}
        lookOf={(objects) => ({ objects, background: { effect: "original", variant: 0 } })}
        small={small}
        onChange={(objects) => setState({ look: { ...look, objects } })}
      />
      <EffectList
        title="Background"
        table={BACKGROUND_EFFECTS}
        choice={look.background}
        lookOf={(background) => ({ ...look, objects: { effect: "original", variant: 0 }, background })}
        small={small}
        onChange={(background) => setState({ look: { ...look, background } })}
      />
      {look.background.effect === "colour" && (
        <label className="words">
          Colour
          <input
            type="color"
            value={look.colour ?? COLOUR}
            onChange={(event) => setState({ look: { ...look, colour: event.target.value } })}
          />
        </label>
      )}
      {look.background.effect === "image" && (
        <FileButton field="Background image" accept="image/*" icon="upload" onFiles={(files) => void choose(files)}>
          {look.image ? "Another image" : "Choose an image"}
        </FileButton>
      )}
      {look.background.effect === "text" && (
        <label className="words">
          Words
          <input
            maxLength={MAX_WORDS}
            placeholder={WORDS.slice(0, 3).join(" ")}
            value={look.words ?? ""}
            onChange={(event) => setState({ look: { ...look, words: event.target.value } })}
          />
        </label>
      )}
    </section>
  );
}

interface ListProps<Effect extends string> {
  title: string;
  table: Record<Effect, { name: string; variants: number }>;
  choice: Choice<Effect>;
  /** The look that shows a choice. */
  lookOf: (choice: Choice<Effect>) => Look;
  small: SmallFrame | null;
  onChange: (choice: Choice<Effect>) => void;
}

/** One button for each effect; a click on the selected one changes its variant. */
function EffectList<Effect extends string>({ title, table, choice, lookOf, small, onChange }: ListProps<Effect>) {
  const effects = Object.keys(table) as Effect[];
  return (
    <div className="effects" role="group" aria-label={title}>
      <h3>{title}</h3>
      {effects.map((effect) => {
        const { name, variants } = table[effect];
        const isSelected = effect === choice.effect;
        return (
          <button
            key={effect}
            type="button"
            aria-pressed={isSelected}
            title={isSelected && variants > 1 ? "Click again for the next variant" : undefined}
            onClick={() => onChange(nextChoice(table, choice, effect))}
          >
            <Preview small={small} look={lookOf(isSelected ? choice : { effect, variant: 0 })} />
            <span>
              {name}
              {/* The ready-made effects have the same names. */}
              <span className="visually-hidden">{" effect"}</span>
            </span>
            {isSelected && variants > 1 && (
              <small>
                {choice.variant + 1}/{variants}
              </small>
            )}
          </button>
        );
      })}
    </div>
  );
}

/** The current frame with a look, in small. */
function Preview({ small, look }: { small: SmallFrame | null; look: Look }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const key = JSON.stringify(look);
  useEffect(() => {
    if (small) drawLook(canvas.current!, small, JSON.parse(key) as Look);
  }, [small, key]);
  return <canvas ref={canvas} data-drawn={small !== null} aria-hidden="true" />;
}
