import { useState } from "react";

interface Props {
  readonly name: string;
  readonly value: number;
  readonly min: number;
  readonly max: number;
  readonly step?: number;
  /** Follows the field. */
  readonly unit?: string;
  readonly onChange: (value: number) => void;
}

/** Selects a whole number. While one types, the field may be empty or hold a number outside of the range. */
export function NumberField({ name, value, min, max, step = 1, unit = "", onChange }: Props) {
  const [typed, setTyped] = useState<string | null>(null);
  return (
    <label className="file-choice">
      {name}
      <input
        type="number"
        min={min}
        max={max}
        step={step}
        value={typed ?? value}
        onChange={({ target }) => {
          setTyped(target.value);
          if (target.value !== "") onChange(Math.min(max, Math.max(min, Math.round(target.valueAsNumber))));
        }}
        onBlur={() => setTyped(null)}
      />
      {unit}
    </label>
  );
}
