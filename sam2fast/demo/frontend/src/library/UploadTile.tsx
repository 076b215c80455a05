import { useStore } from "../state/store";
import { FileButton } from "../ui/FileButton";
import { cancelUpload, upload, useUploading } from "./uploading";

/** The gallery's first tile: selects a file, shows the progress, and cancels the upload. */
export function UploadTile({ accept }: { accept: string }) {
  const limits = useStore((state) => state.limits);
  const current = useUploading((state) => state.upload);

  if (current) {
    const isSent = current.share >= 1;
    return (
      <div className="tile uploading">
        <span role="status">
          {isSent ? "Converting the video …" : `Uploading ${current.name}: ${Math.floor(100 * current.share)} %`}
        </span>
        <progress max={1} value={isSent ? undefined : current.share} aria-label="Upload" />
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
      onFiles={(files) => void upload(files)}
    >
      Upload a video
      <small className="with-keys">or drop it anywhere</small>
    </FileButton>
  );
}
