import { useLayoutEffect, useRef, type ReactNode } from "react";
import { setState, useStore, type DialogName } from "../state/store";
import { IconButton } from "./Icon";

interface Props {
  title: string;
  /** The dialog that is shown again when it is closed. */
  back?: DialogName | null;
  children: ReactNode;
}

/** A modal dialog; the browser keeps the focus inside and closes it on Escape. */
export function Dialog({ title, back = null, children }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const announcement = useStore((state) => state.announcement);
  const problem = useStore(({ notice }) => (notice?.tone === "error" ? notice.text : ""));
  const close = () => setState({ dialog: back });

  // A layout effect closes it while it is still on the page: then the browser returns the focus.
  useLayoutEffect(() => {
    const element = dialog.current!;
    element.showModal();
    return () => element.close();
  }, []);

  return (
    <dialog ref={dialog} aria-label={title} onClose={close}>
      <header>
        <h2>{title}</h2>
        <IconButton icon="close" label="Close" onClick={close} />
      </header>
      {children}
      {/* Screen readers do not read what is outside of a modal dialog. */}
      <div className="visually-hidden" role="status">
        {announcement || problem}
      </div>
    </dialog>
  );
}
