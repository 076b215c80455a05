import { openClip } from "../state/session";
import { setState, useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";

/** Asks whether to discard the clicks on the current video. */
export function DiscardDialog() {
  const clip = useStore((state) => state.clip);
  const chosen = useStore((state) => state.chosen);
  if (!chosen) return null;

  return (
    <Dialog title="Discard your clicks?">
      <p>
        Nothing has been downloaded since you last changed “{clip?.name}”. Its clicks and masks are lost when “
        {chosen.name}” is opened.
      </p>
      <div className="answers">
        <button type="button" onClick={() => setState({ dialog: null })}>
          Keep them
        </button>
        <button type="button" className="danger" onClick={() => void openClip(chosen)}>
          Discard and open
        </button>
      </div>
    </Dialog>
  );
}
