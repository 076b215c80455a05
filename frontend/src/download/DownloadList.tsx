import { useEffect, useState, type ReactNode } from "react";
import { readStored } from "../state/stored";
import { cancelDownload, download, forgetOutcome, useDownload, type Offer, type Progress } from "./running";

const PHONE = "(width < 768px) or (height < 500px)"; // as in small.css

interface ListProps {
  offers: readonly Offer[];
  hint: string;
  /** Names the setting that remembers the last download. */
  remembered: string;
  /** Choices for the files for editing. */
  editing: ReactNode;
}

/**
 * Makes one of the offered files at a time, with its progress. The last one has the focus at the next visit; on phones
 * its group alone is open.
 */
export function DownloadList({ offers, hint, remembered, editing }: ListProps) {
  const { busy, progress, finished, problem } = useDownload();
  const [last] = useState(() => readStored(remembered));
  useEffect(() => forgetOutcome, []);
  const groups = [...new Set(offers.map(({ group }) => group))];
  const lastGroup = offers.find(({ name }) => name === last)?.group ?? groups[0];

  return (
    <>
      {groups.map((group) => (
        <details key={group} className="downloads" open={group === lastGroup || !matchMedia(PHONE).matches}>
          <summary>
            <h3>{group}</h3>
          </summary>
          {group === "For editing" && editing}
          <ul>
            {offers.map(
              (offer) =>
                offer.group === group && (
                  <li key={offer.name}>
                    <button
                      type="button"
                      className={offer.name === last ? "primary" : ""}
                      ref={offer.name === last ? takeFocus : null}
                      // The pressed one keeps the focus.
                      disabled={busy !== null && busy !== `${remembered} ${offer.name}`}
                      onClick={() => busy ?? void download(remembered, offer)}
                    >
                      {offer.name}
                    </button>
                    {busy === `${remembered} ${offer.name}` ? (
                      <ProgressLine {...progress} />
                    ) : (
                      <span>{offer.what}</span>
                    )}
                  </li>
                ),
            )}
          </ul>
        </details>
      ))}
      <p className="hint">{hint}</p>
      {busy && (
        <div className="row">
          <button type="button" onClick={cancelDownload}>
            Cancel
          </button>
          <p className="hint">You can close this and go on: the file is saved when it is ready.</p>
        </div>
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

/** The browser gives the focus to it when the dialog opens. */
function takeFocus(button: HTMLButtonElement | null): void {
  button?.setAttribute("autofocus", "");
}

function ProgressLine({ what, share }: Progress) {
  return (
    <span className="progress-line">
      <progress max={1} value={share ?? undefined} aria-label={what} />
      {share === null ? `${what} …` : `${what}: ${Math.floor(100 * share)} %`}
    </span>
  );
}
