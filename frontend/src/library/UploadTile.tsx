import { useStore } from "../state/store";
import { FileButton } from "../ui/FileButton";
import { cancelUpload, chooseUpload, useUploading } from "./uploading";

/** The gallery's first tile: selects a file, shows the progress, and cancels the upload. */
export function UploadTile({ accept }: { accept: string }) {
  const limits = useStore((state) => state.limits);
  const current = useUploading((state) => state.upload);

  if (current) {
    const { name, what, share } = current;
    return (
      <div className="tile uploading">
        <span role="status">
          {what === "uploading" ? `Uploading ${name}` : "Converting the video"}: {Math.floor(100 * share)} %
        </span>
        <progress max={1} value={share} aria-label={what} />
        <button type="button" onClick={cancelUpload}>
          Cancel
        </button>
      </div>
    );
  }
  return (
    <FileButton
      field="Video file"
      accept={accept}
      icon="upload"
      className="tile upload-tile"
      disabled={!limits}
      onFiles={(files) => void chooseUpload(files)}
    >
      Upload a video
      <small className="with-keys">or drop it anywhere</small>
    </FileButton>
  );
}
