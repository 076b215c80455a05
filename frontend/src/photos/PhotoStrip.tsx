import { useEffect, useRef } from "react";
import { setState, useStore } from "../state/store";
import { FileButton } from "../ui/FileButton";
import { Icon, IconButton } from "../ui/Icon";
import { addPhotos, emptyList, showPhoto, stepPhoto, usePhotos, type PhotoItem } from "./list";

/** The photographs in a row, with the state of each; in the place of a video's timeline. */
export function PhotoStrip() {
  const { items, current } = usePhotos();
  const accept = useStore((state) => state.limits?.photoFormats?.join(",") ?? "");
  const place = items.findIndex(({ id }) => id === current);
  const done = items.filter((item) => item.done).length;

  return (
    <section className="timeline photo-strip" aria-label="Photographs">
      <header>
        {items.length > 1 && (
          <>
            <IconButton
              icon="back"
              label="Previous photograph"
              shortcut="Page Up"
              disabled={place <= 0}
              onClick={() => stepPhoto(-1)}
            />
            <output aria-label="Photograph">
              {place + 1} of {items.length}
            </output>
            <IconButton
              icon="forward"
              label="Next photograph"
              shortcut="Page Down"
              disabled={place < 0 || place === items.length - 1}
              onClick={() => stepPhoto(1)}
            />
            <small className="hint">{done} done</small>
          </>
        )}
        <FileButton
          field="More photographs"
          accept={accept}
          icon="plus"
          className="quiet-button"
          multiple
          onFiles={(files) => void addPhotos(files)}
        >
          Add photographs
        </FileButton>
        <FileButton
          field="Folder of photographs"
          accept={accept}
          icon="folder"
          className="quiet-button"
          folder
          onFiles={(files) => void addPhotos(files)}
        >
          Add a folder
        </FileButton>
        {items.length > 1 && <IconButton icon="bin" label="Empty the list" onClick={askToEmpty} />}
      </header>
      <ol>
        {items.map((item) => (
          <Photo key={item.id} item={item} isCurrent={item.id === current} />
        ))}
      </ol>
    </section>
  );
}

function askToEmpty(): void {
  const text =
    "All photographs but this one leave the list. The work on each stays in this browser and comes back with its file.";
  setState({ dialog: { title: "Empty the list?", text, no: "Keep it", yes: "Empty it", onYes: emptyList } });
}

function Photo({ item, isCurrent }: { item: PhotoItem; isCurrent: boolean }) {
  const entry = useRef<HTMLLIElement>(null);
  useEffect(() => {
    if (isCurrent) entry.current?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [isCurrent]);
  const { name, thumbnail, done } = item;
  const state = describe(item);
  return (
    <li ref={entry}>
      <button
        type="button"
        className={`photo ${done ? "done" : ""}`}
        aria-current={isCurrent}
        title={name}
        onClick={() => void showPhoto(item.id)}
      >
        {thumbnail ? <img src={thumbnail} alt="" loading="lazy" /> : <span className="photo-face" />}
        <span className="photo-name">{name}</span>
        <small>
          {done && <Icon name="check" />}
          {state}
        </small>
      </button>
    </li>
  );
}

function describe({ objects, done }: PhotoItem): string {
  const count = objects === 0 ? "untouched" : objects === 1 ? "1 object" : `${objects} objects`;
  if (!done) return count;
  return objects === 0 ? "done, no objects" : `done, ${count}`;
}
