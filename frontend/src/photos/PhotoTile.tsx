import { useStore } from "../state/store";
import { FileButton } from "../ui/FileButton";
import { addPhotos, showPhoto, usePhotos } from "./list";

/** The gallery's tile for photographs: one, several or a folder; and the way back to those that are open. */
export function PhotoTile() {
  const accept = useStore((state) => state.limits?.photoFormats?.join(",") ?? "");
  const { items, current } = usePhotos();
  const shown = items.find(({ id }) => id === current) ?? items[0];
  if (!accept) return null;
  return (
    <>
      <li className="photo-tile">
        <FileButton
          field="Photographs"
          accept={accept}
          icon="images"
          className="tile upload-tile"
          multiple
          onFiles={(files) => void addPhotos(files)}
        >
          Open photographs
          <small className="with-keys">one, several, or drop a folder</small>
        </FileButton>
      </li>
      {shown && (
        <li>
          <button type="button" className="tile" onClick={() => void showPhoto(shown.id)}>
            {shown.thumbnail ? <img src={shown.thumbnail} alt="" /> : <span className="tile-face" />}
            <span className="tile-name">{items.length === 1 ? shown.name : `${items.length} photographs`}</span>
          </button>
        </li>
      )}
    </>
  );
}
