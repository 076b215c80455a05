export const SHEETS = ["objects", "timeline", "effects"] as const;
export type Sheet = (typeof SHEETS)[number];

const NAMES: Record<Sheet, string> = { objects: "Objects", timeline: "Timeline", effects: "Effects" };

interface Props {
  sheet: Sheet;
  isPhoto: boolean;
  onChange: (sheet: Sheet) => void;
}

/** Selects the sheet under the video on small screens; larger screens show all sheets and hide this. */
export function SheetTabs({ sheet, isPhoto, onChange }: Props) {
  return (
    <nav className="sheet-tabs" aria-label="Sheets">
      {SHEETS.map((name) => (
        <button key={name} type="button" aria-pressed={name === sheet} onClick={() => onChange(name)}>
          {isPhoto && name === "timeline" ? "Photographs" : NAMES[name]}
        </button>
      ))}
    </nav>
  );
}
