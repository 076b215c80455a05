import { useState, type DragEvent, type ReactNode } from "react";
import { hasEnding } from "../api/upload";
import { droppedFiles, mayBeLabels } from "../photos/dropped";
import { getState } from "../state/store";
import { openFile } from "./openFile";
import { chooseUpload } from "./uploading";

const DATA_FILE = /\.(json|png|zip)$/i;

/** A single file may be a project or masks; a PNG is masks if it looks like a label image of what is open. */
async function open(files: readonly File[]): Promise<void> {
  const [file] = files;
  const { limits, clip, session } = getState();
  const photoFormats = limits?.photoFormats ?? [];
  const isData = files.length === 1 && DATA_FILE.test(file!.name);
  if (isData && (!hasEnding(file!.name, photoFormats) || (await mayBeLabels(file!, session && clip))))
    await openFile(file!);
  else await chooseUpload(files);
}

/** Accepts a video, photographs, a project or masks that are dropped anywhere on the page. */
export function DropTarget({ children }: { children: ReactNode }) {
  const [isOver, setOver] = useState(false);
  const hasFiles = (event: DragEvent) => event.dataTransfer.types.includes("Files");

  return (
    <div
      className={isOver ? "drop-target over" : "drop-target"}
      onDragOver={(event) => {
        if (!hasFiles(event)) return;
        event.preventDefault(); // without this the browser would open the file
        setOver(true);
      }}
      onDragLeave={(event) => {
        if (!event.currentTarget.contains(event.relatedTarget as Node | null)) setOver(false);
      }}
      onDrop={(event) => {
        if (!hasFiles(event)) return;
        event.preventDefault();
        setOver(false);
        void droppedFiles(event.dataTransfer).then(open);
      }}
    >
      {children}
      {isOver && <div className="drop-hint">Drop a video, photographs, a project or masks</div>}
    </div>
  );
}
