export const SHEETS = ["objects", "timeline", "effects"] as const;
export type Sheet = (typeof SHEETS)[number];

const NAMES: Record<Sheet, string> = { objects: "Objects", timeline: "Timeline", effects: "Effects" };

/** Selects the sheet under the video on small screens; larger screens show all sheets and hide this. */
export function SheetTabs({ sheet, onChange }: { sheet: Sheet; onChange: (sheet: Sheet) => void }) {
  return (
    <nav className="sheet-tabs" aria-label="Sheets">
      {SHEETS.map((name) => (
        <button key={name} type="button" aria-pressed={name === sheet} onClick={() => onChange(name)}>
          {NAMES[name]}
        </button>
      ))}
    </nav>
  );
}
