import { useState, type DragEvent, type ReactNode } from "react";
import { upload } from "./uploading";

/** Accepts a video that is dropped anywhere on the page. */
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
        void upload([...event.dataTransfer.files]);
      }}
    >
      {children}
      {isOver && <div className="drop-hint">Drop a video to open it</div>}
    </div>
  );
}
