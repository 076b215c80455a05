import { useEffect, useRef, useState } from "react";
import { asApiError } from "../api/errors";
import type { FileSize } from "../api/rest";
import { handleFailure } from "../state/failures";
import { trackedState } from "../state/plan";
import { announce, setState, useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";
import { formatSize, saveFile } from "./files";
import { FORMATS, makeDownload, type Format, type Progress } from "./formats";

const UNTRACKED = "Some frames are not tracked: they have no masks in the files.";
const MISSING = {
  never: UNTRACKED,
  partial: UNTRACKED,
  stale: "Hatched frames have masks from before the last change.",
  done: null,
};

/** Makes files of what the page shows, and saves them under the video's name. */
export function DownloadDialog() {
  const missing = useStore(({ scene, masks, session }) => MISSING[trackedState(scene, masks, session!.numFrames)]);
  const clip = useStore((state) => state.clip);
  const source = useStore((state) => state.session?.source ?? null);
  const [size, setSize] = useState<FileSize>("source");
  const [busy, setBusy] = useState<Format | null>(null);
  const [progress, setProgress] = useState<Progress | null>(null);
  const [finished, setFinished] = useState("");
  const [problem, setProblem] = useState("");
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);

  const download = async (format: Format) => {
    const { signal } = (abort.current = new AbortController());
    setBusy(format);
    setProblem("");
    setFinished("");
    try {
      const file = await makeDownload(format, size, setProgress, signal);
      if (!file || signal.aborted) return;
      saveFile(file.content, file.name);
      setFinished(`${file.name}, ${formatSize(file.content.size)}`);
      announce(`${file.name} is downloaded.`);
    } catch (error) {
      if (signal.aborted) return;
      const { failure, message } = asApiError(error);
      setProblem(message);
      if (failure === "network" || failure === "session") {
        setState({ dialog: null });
        handleFailure(error);
      }
    } finally {
      setBusy(null);
      setProgress(null);
    }
  };

  return (
    <Dialog title="Download">
      {missing && <p className="hint">{missing}</p>}
      {source && clip && (
        <label className="file-size">
          Size
          <select value={size} disabled={busy !== null} onChange={({ target }) => setSize(target.value as FileSize)}>
            <option value="source">
              {source.width} × {source.height}, your file’s
            </option>
            <option value="seen">
              {clip.width} × {clip.height}, as shown here: faster
            </option>
          </select>
        </label>
      )}
      <ul className="downloads">
        {FORMATS.map((format) => (
          <li key={format.name}>
            <button type="button" disabled={busy !== null} onClick={() => void download(format)}>
              {format.name}
            </button>
            {busy === format && progress ? <ProgressLine {...progress} /> : <span>{format.what}</span>}
          </li>
        ))}
      </ul>
      <p className="hint">Files number frames from 0, this page from 1.</p>
      {busy && (
        <button type="button" onClick={() => abort.current?.abort()}>
          Cancel
        </button>
      )}
      {finished && <p>{finished}</p>}
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
    </Dialog>
  );
}

function ProgressLine({ what, share }: Progress) {
  return (
    <span className="progress-line">
      <progress max={1} value={share ?? undefined} aria-label={what} />
      {share === null ? `${what} …` : `${what}: ${Math.floor(100 * share)} %`}
    </span>
  );
}
