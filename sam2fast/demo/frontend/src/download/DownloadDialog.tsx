import { useEffect, useRef, useState } from "react";
import { asApiError } from "../api/errors";
import { exportFile, type ExportFormat } from "../api/rest";
import { handleFailure } from "../state/failures";
import { announce, getState, setState, useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";
import { withNames } from "./names";
import { saveFile } from "./save";

const FORMATS: readonly { format: ExportFormat; name: string; what: string }[] = [
  { format: "overlay_mp4", name: "Film", what: "The video with the masks in colour (MP4)." },
  {
    format: "masks_png",
    name: "Masks",
    what: "A palette picture per frame: 0 is the background, 1 the first object, and so on (ZIP of PNG).",
  },
  { format: "cutout", name: "Cut-out", what: "The objects alone, transparent around them (ZIP of PNG)." },
  {
    format: "coco_rle",
    name: "Run lengths",
    what: "Every mask in COCO's compressed run lengths, with your names (JSON).",
  },
];

/** A file of all masks in one of the server's formats, or the picture on show as it is drawn. */
export function DownloadDialog() {
  const isWhole = useStore((state) => state.tracking.state === "done");
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
      {!isWhole && <p className="hint">Not all of the video is tracked: the files have the frames that are.</p>}
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
          <button type="button" onClick={savePicture}>
            Picture
          </button>
          <span>The frame on show with its effects (PNG).</span>
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

function savePicture(): void {
  const canvas = document.querySelector<HTMLCanvasElement>(".picture canvas");
  canvas?.toBlob((content) => {
    if (content) saveFile(content, `frame_${String(getState().frame).padStart(5, "0")}.png`);
  });
}
