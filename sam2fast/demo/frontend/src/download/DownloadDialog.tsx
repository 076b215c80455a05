import { useEffect, useRef, useState } from "react";
import { asApiError } from "../api/errors";
import { exportFile, type ExportFormat } from "../api/rest";
import { handleFailure } from "../state/failures";
import { announce, getState, setState, useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";
import { saveFile, withNames } from "./files";

const FORMATS: readonly { format: ExportFormat; name: string; what: string }[] = [
  { format: "overlay_mp4", name: "Video", what: "The video with the masks in colour (MP4)." },
  {
    format: "masks_png",
    name: "Masks",
    what: "A palette image per frame: 0 is the background, 1 the first object, and so on (ZIP of PNG).",
  },
  { format: "cutout", name: "Cut-out", what: "The objects on a transparent background (ZIP of PNG)." },
  {
    format: "coco_rle",
    name: "Run lengths",
    what: "All masks as COCO's compressed run lengths, with the objects' names (JSON).",
  },
];

/** Downloads all masks in one of the server's formats, or the current frame as drawn. */
export function DownloadDialog() {
  const isComplete = useStore((state) => state.tracking.state === "done");
  const [busy, setBusy] = useState<ExportFormat | null>(null);
  const [problem, setProblem] = useState("");
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);

  const download = async (format: ExportFormat) => {
    const { session, scene } = getState();
    if (!session) return;
    abort.current = new AbortController();
    setBusy(format);
    setProblem("");
    try {
      const { name, content } = await exportFile(session.id, format, abort.current.signal);
      saveFile(format === "coco_rle" ? await withNames(content, scene) : content, name);
      setState({ downloaded: scene });
      announce(`${name} is downloaded.`);
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") return;
      const { failure, message } = asApiError(error);
      setProblem(message);
      if (failure === "network" || failure === "session") {
        setState({ dialog: null });
        handleFailure(error);
      }
    } finally {
      setBusy(null);
    }
  };

  return (
    <Dialog title="Download">
      {!isComplete && (
        <p className="hint">The video is not tracked completely: the files contain the tracked frames only.</p>
      )}
      <ul className="downloads">
        {FORMATS.map(({ format, name, what }) => (
          <li key={format}>
            <button type="button" disabled={busy !== null} onClick={() => void download(format)}>
              {busy === format ? <span className="spinner" /> : null}
              {name}
            </button>
            <span>{what}</span>
          </li>
        ))}
        <li>
          <button type="button" onClick={saveFrame}>
            Frame
          </button>
          <span>The current frame with its effects (PNG).</span>
        </li>
      </ul>
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
    </Dialog>
  );
}

function saveFrame(): void {
  const canvas = document.querySelector<HTMLCanvasElement>(".frame canvas");
  canvas?.toBlob((content) => {
    if (content) saveFile(content, `frame_${String(getState().frame).padStart(5, "0")}.png`);
  });
}
