import { useStore } from "../state/store";
import { openDataFile } from "../project/files";
import { FileButton } from "../ui/FileButton";
import { cancelUpload, upload, useUploading } from "./uploading";

/** Selects a file, shows the progress, and cancels the upload. */
export function UploadArea() {
  const limits = useStore((state) => state.limits);
  const { upload: current, problem } = useUploading();
  const formats = limits?.formats.map((format) => `.${format.replace(/^\./, "")}`) ?? [];

  if (current) {
    const isSent = current.share >= 1;
    return (
      <div className="upload">
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
    <div className="upload">
      <div className="row">
        <FileButton
          field="Video file"
          accept={formats.join(",")}
          icon="upload"
          className="primary"
          disabled={!limits}
          onFiles={(files) => void upload(files)}
        >
          Upload a video
        </FileButton>
        <FileButton
          field="Project file"
          accept=".json"
          icon="folder"
          onFiles={([file]) => void (file && openDataFile(file))}
        >
          Open a project
        </FileButton>
      </div>
      {limits && (
        <p className="hint">
          Or drop it anywhere: {formats.join(", ")}, up to {limits.maxUploadMB} MB. The first {limits.maxSeconds}{" "}
          seconds are used.
        </p>
      )}
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
    </div>
  );
}
