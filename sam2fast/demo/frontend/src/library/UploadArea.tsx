import { useRef } from "react";
import { useStore } from "../state/store";
import { Icon } from "../ui/Icon";
import { cancelUpload, upload, useUploading } from "./uploading";

/** Selects a file, shows the progress, and cancels the upload. */
export function UploadArea() {
  const limits = useStore((state) => state.limits);
  const { upload: current, problem } = useUploading();
  const input = useRef<HTMLInputElement>(null);
  const formats = limits?.formats.map((format) => `.${format.replace(/^\./, "")}`) ?? [];

  if (current) {
    const isSent = current.share >= 1;
    return (
      <div className="upload">
        <span role="status">
          {isSent
            ? "The server converts the video …"
            : `Uploading ${current.name}: ${Math.floor(100 * current.share)} %`}
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
      <button type="button" className="primary" disabled={!limits} onClick={() => input.current?.click()}>
        <Icon name="upload" />
        Upload a video
      </button>
      <input
        ref={input}
        type="file"
        aria-label="Video file"
        className="visually-hidden"
        tabIndex={-1}
        accept={formats.join(",")}
        onChange={(event) => {
          const files = [...(event.target.files ?? [])];
          event.target.value = ""; // so that the same file can be chosen again
          void upload(files);
        }}
      />
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
