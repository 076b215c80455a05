import { useEffect } from "react";
import { isPhoto } from "../api/video";
import { PhotoTile } from "../photos/PhotoTile";
import { SamplePhotos } from "../photos/SamplePhotos";
import { openClip, refreshGallery } from "../project/session";
import { useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";
import { FileButton } from "../ui/FileButton";
import { RealClipsTile } from "./RealClipsTile";
import { openFile } from "./openFile";
import { TrimControl } from "./TrimControl";
import { cancelTrimming, useUploading } from "./uploading";
import { UploadTile } from "./UploadTile";

const REFRESH_MS = 2000; // the server draws and downloads videos for its gallery

/** The upload, the gallery, and projects. */
export function VideosDialog() {
  const clips = useStore((state) => state.clips);
  const videos = clips.filter((clip) => !isPhoto(clip));
  const current = useStore((state) => state.clip?.path);
  const limits = useStore((state) => state.limits);
  const problem = useUploading((state) => state.problem);
  const trimming = useUploading((state) => state.trimming);
  useEffect(() => () => useUploading.setState({ problem: "" }), []);
  useEffect(() => cancelTrimming, []);
  useEffect(() => {
    const refresh = () => void refreshGallery().catch(() => undefined);
    refresh();
    const timer = setInterval(refresh, REFRESH_MS);
    return () => clearInterval(timer);
  }, []);
  const formats = limits?.formats.map((format) => `.${format.replace(/^\./, "")}`) ?? [];

  if (trimming) {
    return (
      <Dialog title="Choose a part">
        <TrimControl {...trimming} />
      </Dialog>
    );
  }
  return (
    <Dialog title="Videos and photographs">
      <ul className="gallery">
        <li>
          <UploadTile accept={formats.join(",")} />
        </li>
        <PhotoTile />
        <SamplePhotos />
        {videos.map((clip) => (
          <li key={clip.path}>
            <button
              type="button"
              className="tile"
              aria-current={clip.path === current}
              onClick={() => void openClip(clip)}
            >
              {clip.poster ? (
                <img src={clip.poster} alt="" width={clip.width} height={clip.height} />
              ) : (
                <video src={clip.url} muted preload="metadata" tabIndex={-1} />
              )}
              <span className="tile-name">{clip.name}</span>
            </button>
          </li>
        ))}
        <RealClipsTile />
      </ul>
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
      <footer className="gallery-foot">
        {limits && (
          <p className="hint">
            {formats.join(", ")}, up to {limits.maxUploadMB} MB. At most {limits.maxSeconds} seconds are used.
          </p>
        )}
        <FileButton
          field="Project file"
          accept=".json"
          icon="folder"
          onFiles={([file]) => void (file && openFile(file))}
        >
          Open a project
        </FileButton>
      </footer>
    </Dialog>
  );
}
