import {
  BACKGROUND_EFFECTS,
  OBJECT_EFFECTS,
  PRESETS,
  isSameLook,
  nextChoice,
  surprise,
  type Choice,
} from "../effects/look";
import { setState, useStore } from "../state/store";
import { Icon } from "../ui/Icon";

/** Selects how objects and background are drawn. */
export function LookPanel() {
  const look = useStore((state) => state.look);
  return (
    <section className="panel look" aria-label="Effects">
      <header>
        <h2>Effects</h2>
        <button type="button" className="quiet-button" onClick={() => setState({ look: surprise(look) })}>
          <Icon name="sparkles" />
          Surprise me
        </button>
      </header>
      <div className="presets" role="group" aria-label="Ready-made effects">
        {PRESETS.map((preset) => (
          <button
            key={preset.name}
            type="button"
            aria-pressed={isSameLook(preset.look, look)}
            onClick={() => setState({ look: preset.look })}
          >
            {preset.name}
          </button>
        ))}
      </div>
      <EffectList
        title="Objects"
        table={OBJECT_EFFECTS}
        choice={look.objects}
        onChange={(objects) => setState({ look: { ...look, objects } })}
      />
      <EffectList
        title="Background"
        table={BACKGROUND_EFFECTS}
        choice={look.background}
        onChange={(background) => setState({ look: { ...look, background } })}
      />
    </section>
  );
}

interface ListProps<Effect extends string> {
  title: string;
  table: Record<Effect, { name: string; variants: number }>;
  choice: Choice<Effect>;
  onChange: (choice: Choice<Effect>) => void;
}

/** One button for each effect; a click on the selected one changes its variant. */
function EffectList<Effect extends string>({ title, table, choice, onChange }: ListProps<Effect>) {
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
            {name}
            {/* The ready-made effects have the same names. */}
            <span className="visually-hidden">{" effect"}</span>
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
