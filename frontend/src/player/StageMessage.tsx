import { restart } from "../project/session";
import type { Size } from "../scene/geometry";
import { setState, useStore } from "../state/store";

const MANY = 8e6; // pixels: opening takes longer

function describeSize({ width, height }: Size): string {
  const pixels = width * height;
  return pixels >= MANY ? `${Math.round(pixels / 1e6)} megapixels` : `${width} × ${height}`;
}

/** The message in place of the video while there is none. */
export function StageMessage() {
  const phase = useStore((state) => state.phase);
  const problem = useStore((state) => state.problem);
  const sending = useStore((state) => state.sending);
  const connected = useStore((state) => state.connected);
  const clip = useStore((state) => state.clip);
  const isWaiting = useStore((state) => state.early.length > 0);

  if (phase === "ready" && !sending) return null;
  const opening = clip ? `Opening ${clip.name}, ${describeSize(clip)} …` : "Opening …";
  if (sending || phase === "starting" || phase === "opening") {
    return (
      <div className="stage-message" role="status">
        <span className="spinner" />
        {sending || (isWaiting ? `${opening} Your click is answered then.` : opening)}
      </div>
    );
  }
  if (!connected) return null; // the banner reports it
  return (
    <div className="stage-message" role="alert">
      <p>{problem}</p>
      <div className="row">
        <button type="button" className="primary" onClick={() => void restart()}>
          Try again
        </button>
        <button type="button" onClick={() => setState({ dialog: "videos" })}>
          Choose another one
        </button>
      </div>
    </div>
  );
}
