import { setState } from "../state/store";
import { Dialog } from "../ui/Dialog";
import { showProject, useReplacement } from "./files";

/** Asks before a project file replaces the saved work on its video. */
export function ReplaceDialog() {
  const project = useReplacement((state) => state.project)!;
  return (
    <Dialog title="Replace your work?">
      <p>This browser has other work on “{project.clip.name}”. The project replaces it. This cannot be undone.</p>
      <div className="answers">
        <button type="button" onClick={() => setState({ dialog: null })}>
          Keep it
        </button>
        <button
          type="button"
          className="danger"
          onClick={() => {
            setState({ dialog: null });
            void showProject(project);
          }}
        >
          Replace
        </button>
      </div>
    </Dialog>
  );
}
