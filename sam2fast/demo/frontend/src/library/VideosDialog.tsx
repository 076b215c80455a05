import { openClip } from "../state/session";
import { useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";
import { UploadArea } from "./UploadArea";

/** The gallery and the upload. */
export function VideosDialog() {
  const clips = useStore((state) => state.clips);
  const current = useStore((state) => state.clip?.path);

  return (
    <Dialog title="Videos">
      <ul className="gallery">
        {clips.map((clip) => (
          <li key={clip.path}>
            <button type="button" aria-current={clip.path === current} onClick={() => void openClip(clip)}>
              {clip.poster ? (
                <img src={clip.poster} alt="" width={clip.width} height={clip.height} />
              ) : (
                <video src={clip.url} muted preload="metadata" tabIndex={-1} />
              )}
              <span>{clip.name}</span>
            </button>
          </li>
        ))}
      </ul>
      <UploadArea />
    </Dialog>
  );
}
