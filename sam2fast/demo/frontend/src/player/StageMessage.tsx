import { restart } from "../project/session";
import { setState, useStore } from "../state/store";

/** The message in place of the video while there is none. */
export function StageMessage() {
  const phase = useStore((state) => state.phase);
  const problem = useStore((state) => state.problem);
  const sending = useStore((state) => state.sending);
  const connected = useStore((state) => state.connected);
  const isWaiting = useStore((state) => state.early.length > 0);

  if (phase === "ready") return null;
  if (phase === "starting" || phase === "opening") {
    return (
      <div className="stage-message" role="status">
        <span className="spinner" />
        {sending || (isWaiting ? "Opening … Your click is answered then." : "Opening …")}
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
