import { useEffect, useState } from "react";
import { asApiError } from "../api/errors";
import { downloadRealClips, getRealClips, type RealClips } from "../api/models";
import { Icon } from "../ui/Icon";

const POLL_MS = 700;

/** Downloads real clips into the server's gallery; nothing where the server has them or may not download. */
export function RealClipsTile() {
  const [status, setStatus] = useState<RealClips | null>(null);
  const isRunning = status?.state === "downloading";

  useEffect(() => {
    let isShown = true;
    const load = async () => {
      const found = await getRealClips().catch(() => null);
      if (isShown && found) setStatus(found);
    };
    void load();
    const timer = isRunning ? setInterval(() => void load(), POLL_MS) : 0;
    return () => {
      isShown = false;
      clearInterval(timer);
    };
  }, [isRunning]);

  if (!status || status.isOffline || status.state === "ready") return null;
  return (
    <li>
      <button
        type="button"
        className="tile"
        disabled={isRunning}
        onClick={() =>
          void downloadRealClips()
            .then(() => setStatus({ ...status, state: "downloading", share: 0 }))
            .catch((error: unknown) => setStatus({ ...status, problem: asApiError(error).message }))
        }
      >
        <span className="tile-face">
          <Icon name="cloud" />
          {isRunning ? <progress max={1} value={status.share} aria-label="Download of real clips" /> : "Real clips"}
        </span>
        <span className="tile-name">
          {status.problem ? "Not downloaded: try again" : `From SAM 2’s demo, ${Math.round(status.megabytes)} MB`}
        </span>
      </button>
      {status.problem && <p className="problem">{status.problem}</p>}
    </li>
  );
}
