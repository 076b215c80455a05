import { PrecisionTools } from "../precision/PrecisionTools";
import { openDataFile } from "../project/files";
import { promptedFrames } from "../scene/scene";
import * as editing from "../state/editing";
import { useStore } from "../state/store";
import { FileButton } from "../ui/FileButton";
import { Icon, IconButton } from "../ui/Icon";
import { ObjectRow } from "./ObjectRow";
import { ToolPicker } from "./ToolPicker";

/** The objects, and the click tool. */
export function ObjectPanel() {
  const objects = useStore((state) => state.scene.objects);
  const locked = useStore((state) => state.phase !== "ready");
  const canImport = useStore((state) => !state.limits?.lacks?.includes("importing masks"));
  const isEmpty = objects.length === 1 && promptedFrames(objects[0]!).length === 0;
  const canUndo = useStore((state) => state.history.past.length > 0);
  const canRedo = useStore((state) => state.history.future.length > 0);

  return (
    <section className="panel objects" aria-label="Objects">
      <header>
        <h2>
          Objects <small>{objects.length}</small>
        </h2>
        <IconButton icon="undo" label="Undo" shortcut="Z" disabled={locked || !canUndo} onClick={editing.undo} />
        <IconButton icon="redo" label="Redo" shortcut="Shift Z" disabled={locked || !canRedo} onClick={editing.redo} />
        <IconButton icon="restart" label="Start over" disabled={locked || isEmpty} onClick={editing.startOver} />
      </header>
      <ToolPicker />
      <PrecisionTools />
      <ul className="object-list">
        {objects.map((object) => (
          <ObjectRow key={object.id} object={object} locked={locked} />
        ))}
      </ul>
      <footer>
        <button
          type="button"
          className="add-object"
          disabled={locked}
          onClick={editing.newObject}
          title="New object (N)"
        >
          <Icon name="plus" />
          Add an object
        </button>
        {canImport && (
          <FileButton
            field="Masks file"
            accept=".json,.png,.zip"
            icon="import"
            className="quiet-button"
            disabled={locked}
            onFiles={([file]) => void (file && openDataFile(file))}
          >
            Import<span className="visually-hidden"> masks (COCO, PNG)</span>
          </FileButton>
        )}
      </footer>
    </section>
  );
}
