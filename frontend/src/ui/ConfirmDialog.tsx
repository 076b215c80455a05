import { setState, type Question } from "../state/store";
import { Dialog } from "./Dialog";

/** Asks before work is removed. */
export function ConfirmDialog({ title, text, no, yes, onYes, back = null }: Question) {
  const close = () => setState({ dialog: back });
  return (
    <Dialog title={title} back={back}>
      <p>{text}</p>
      <div className="answers">
        <button type="button" onClick={close}>
          {no}
        </button>
        <button
          type="button"
          className="danger"
          onClick={() => {
            close();
            onYes();
          }}
        >
          {yes}
        </button>
      </div>
    </Dialog>
  );
}
