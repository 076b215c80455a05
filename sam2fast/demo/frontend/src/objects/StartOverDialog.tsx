import { startOver } from "../state/editing";
import { setState, useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";

/** Asks before it removes all objects. */
export function StartOverDialog() {
  const clip = useStore((state) => state.clip);
  return (
    <Dialog title="Start over?">
      <p>All objects of “{clip?.name}” are removed, with their clicks and masks. Undo restores them.</p>
      <div className="answers">
        <button type="button" onClick={() => setState({ dialog: null })}>
          Keep them
        </button>
        <button
          type="button"
          className="danger"
          onClick={() => {
            setState({ dialog: null });
            startOver();
          }}
        >
          Start over
        </button>
      </div>
    </Dialog>
  );
}
