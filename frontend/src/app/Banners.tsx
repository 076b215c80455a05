import { useEffect } from "react";
import { LoadingNote } from "../local/LoadingNote";
import { setState, useStore } from "../state/store";
import { IconButton } from "../ui/Icon";

const [INFO_MS, LETTER_MS] = [5000, 70]; // at least, and for each letter

/** A lost connection, errors, and announcements for screen readers. */
export function Banners() {
  const connected = useStore((state) => state.connected);
  const notice = useStore((state) => state.notice);
  const shown = useStore((state) => (state.phase === "failed" ? state.problem : "")); // in place of the video
  const announcement = useStore((state) => state.announcement);

  useEffect(() => {
    if (notice?.tone !== "info") return;
    const duration = Math.max(INFO_MS, LETTER_MS * notice.text.length);
    const timer = setTimeout(() => setState({ notice: null }), duration);
    return () => clearTimeout(timer);
  }, [notice]);

  return (
    <section className="banners" aria-label="Messages">
      <div className="visually-hidden" role="status" aria-live="polite">
        {announcement}
      </div>
      <LoadingNote />
      {!connected && (
        <div className="banner error" role="alert">
          <span className="spinner" />
          The server does not answer. Trying again …
        </div>
      )}
      {notice && connected && notice.text !== shown && (
        <div className={`banner ${notice.tone}`} role={notice.tone === "error" ? "alert" : undefined}>
          <span className="banner-text">{notice.text}</span>
          <IconButton icon="close" label="Dismiss" onClick={() => setState({ notice: null })} />
        </div>
      )}
    </section>
  );
}
