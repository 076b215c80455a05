import { useEffect, useState } from "react";
import { isInBrowser } from "../api/transport";
import type { Loading } from "./calls";
import { onLoading } from "./loading";

const NOTHING: Loading = { share: 0, problem: null, engine: null };

/** How much of the model is loaded, in pages without a server; the video can be watched meanwhile. */
export function LoadingNote() {
  const [{ share, problem }, setLoading] = useState(NOTHING);
  useEffect(() => onLoading(setLoading), []);

  if (!isInBrowser) return null;
  if (problem) {
    return (
      <div className="banner error" role="alert">
        {problem}
      </div>
    );
  }
  if (share >= 1) return null;
  return (
    <div className="banner info" role="status">
      Loading the model …
      <progress max={1} value={share} aria-label="Loading the model" />
    </div>
  );
}
