import { useEffect, useState } from "react";
import { isPhoto } from "../api/video";
import { countPoints, type FileSize } from "../api/rest";
import { masksAt } from "../masks/masks";
import { counted } from "../scene/counted";
import { getState, useStore } from "../state/store";

export const TOLERANCE = 1; // pixels, as of the commands
const CHOICES = [0, 0.5, TOLERANCE, 2, 4];

interface Props {
  /** Those with polygons. */
  readonly formats: string;
  readonly size: FileSize;
  readonly tolerance: number;
  readonly onChange: (tolerance: number) => void;
}

/** How far polygons may be from the masks' outlines, with their number of points on the current frame. */
export function SimplifyChoice({ formats, size, tolerance, onChange }: Props) {
  const isLacking = useStore((state) => state.limits?.lacks?.includes("simplifying") ?? false);
  const [points, setPoints] = useState<number | null>(null);
  useEffect(() => {
    const { session, scene, masks, frame } = getState();
    const here = masksAt(masks, frame);
    if (isLacking || !session || here.size === 0) return;
    const abort = new AbortController();
    countPoints(session.id, { size, tolerance, scene, masks: new Map([[frame, here]]) }, abort.signal).then(
      setPoints,
      () => setPoints(null), // the download says why
    );
    return () => abort.abort();
  }, [isLacking, size, tolerance]);
  const where = useStore(({ clip }) => (clip && isPhoto(clip) ? "in this photograph" : "on this frame"));
  if (isLacking) return null;

  return (
    <>
      <label className="file-choice">
        Simplify outlines
        <select value={tolerance} onChange={({ target }) => onChange(Number(target.value))}>
          {CHOICES.map((choice) => (
            <option key={choice} value={choice}>
              {choice === 0 ? "No: every corner of the pixels" : `By at most ${counted(choice, "pixel")}`}
            </option>
          ))}
        </select>
      </label>
      <p className="hint" role="status">
        Polygons of {formats}
        {points !== null && `: ${counted(points, "point")} ${where}`}
      </p>
    </>
  );
}
