import { useState, type DragEvent, type ReactNode } from "react";
import { openDataFile } from "../project/files";
import { chooseUpload } from "./uploading";

const DATA_FILE = /\.(json|png|zip)$/i;

/** Accepts a video, a project or masks that are dropped anywhere on the page. */
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
        const files = [...event.dataTransfer.files];
        if (files.length === 1 && DATA_FILE.test(files[0]!.name)) void openDataFile(files[0]!);
        else void chooseUpload(files);
      }}
    >
      {children}
      {isOver && <div className="drop-hint">Drop a video, a project or masks</div>}
    </div>
  );
}
