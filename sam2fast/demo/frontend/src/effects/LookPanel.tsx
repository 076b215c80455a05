import { setState, useStore } from "../state/store";
import { BACKGROUND_EFFECTS, OBJECT_EFFECTS, PRESETS, type BackgroundEffect, type ObjectEffect } from "./look";

const OBJECT_NAMES: Record<ObjectEffect, string> = {
  overlay: "Overlay",
  outline: "Outline",
  original: "Original",
  blur: "Blur",
  pixelate: "Pixelate",
  desaturate: "Desaturate",
  erase: "Erase",
};

const BACKGROUND_NAMES: Record<BackgroundEffect, string> = {
  original: "Original",
  darken: "Darken",
  blur: "Blur",
  pixelate: "Pixelate",
  desaturate: "Desaturate",
  erase: "Erase",
  white: "White",
  green: "Green",
};

/** Selects how objects and background are drawn. */
export function LookPanel() {
  const look = useStore((state) => state.look);
  return (
    <section className="panel look" aria-label="Effects">
      <header>
        <h2>Effects</h2>
      </header>
      <div className="presets" role="group" aria-label="Ready-made effects">
        {PRESETS.map((preset) => (
          <button
            key={preset.name}
            type="button"
            aria-pressed={preset.look.objects === look.objects && preset.look.background === look.background}
            onClick={() => setState({ look: preset.look })}
          >
            {preset.name}
          </button>
        ))}
      </div>
      <div className="choice">
        <label htmlFor="look-objects">Objects</label>
        <select
          id="look-objects"
          value={look.objects}
          onChange={(event) => setState({ look: { ...look, objects: event.target.value as ObjectEffect } })}
        >
          {OBJECT_EFFECTS.map((effect) => (
            <option key={effect} value={effect}>
              {OBJECT_NAMES[effect]}
            </option>
          ))}
        </select>
      </div>
      <div className="choice">
        <label htmlFor="look-background">Background</label>
        <select
          id="look-background"
          value={look.background}
          onChange={(event) => setState({ look: { ...look, background: event.target.value as BackgroundEffect } })}
        >
          {BACKGROUND_EFFECTS.map((effect) => (
            <option key={effect} value={effect}>
              {BACKGROUND_NAMES[effect]}
            </option>
          ))}
        </select>
      </div>
    </section>
  );
}
