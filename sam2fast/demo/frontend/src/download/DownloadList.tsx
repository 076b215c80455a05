import { useEffect, useRef, useState } from "react";
import { asApiError } from "../api/errors";
import { handleFailure } from "../state/failures";
import { announce, setState } from "../state/store";
import { formatSize, saveFile } from "./files";

export interface Progress {
  /** What is being done. */
  readonly what: string;
  /** 0 to 1; null if it is not known. */
  readonly share: number | null;
}

/** A file that is offered. */
export interface Offer {
  readonly name: string;
  readonly what: string;
  readonly make: (
    report: (progress: Progress) => void,
    signal: AbortSignal,
  ) => Promise<{ name: string; content: Blob } | null>;
}

const BEGUN: Progress = { what: "Writing", share: null };

/** Makes one of the offered files at a time, with its progress, and saves it. */
export function DownloadList({ offers, hint }: { offers: readonly Offer[]; hint: string }) {
  const [busy, setBusy] = useState<string | null>(null);
  const [progress, setProgress] = useState(BEGUN);
  const [finished, setFinished] = useState("");
  const [problem, setProblem] = useState("");
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);

  const download = async ({ name, make }: Offer) => {
    const { signal } = (abort.current = new AbortController());
    setBusy(name);
    setProgress(BEGUN);
    setProblem("");
    setFinished("");
    try {
      const file = await make(setProgress, signal);
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
    }
  };

  return (
    <>
      <ul className="downloads">
        {offers.map((offer) => (
          <li key={offer.name}>
            <button type="button" disabled={busy !== null} onClick={() => void download(offer)}>
              {offer.name}
            </button>
            {busy === offer.name ? <ProgressLine {...progress} /> : <span>{offer.what}</span>}
          </li>
        ))}
      </ul>
      <p className="hint">{hint}</p>
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
    </>
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
