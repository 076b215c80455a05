import { isPhoto } from "../api/video";
import { useStore } from "../state/store";
import { IconButton } from "../ui/Icon";
import { goTo, step, togglePlay } from "./playback";
import { ZoomControls } from "./ZoomControls";

/** Buttons to play and step, and the current position. */
export function Transport() {
  const session = useStore((state) => state.session);
  const frame = useStore((state) => state.frame);
  const playing = useStore((state) => state.playing);
  const busy = useStore((state) => state.phase !== "ready");
  const clip = useStore((state) => state.clip);
  const total = session?.numFrames ?? 0;

  if (clip && isPhoto(clip)) {
    return (
      <div className="transport">
        <output className="counter" aria-label="Size">
          {clip.width} × {clip.height}
        </output>
        <ZoomControls />
      </div>
    );
  }
  return (
    <div className="transport" role="group" aria-label="Player">
      <IconButton icon="first" label="First frame" shortcut="Home" disabled={!session} onClick={() => goTo(0)} />
      <IconButton icon="back" label="One frame back" shortcut="←" disabled={!session} onClick={() => step(-1)} />
      <IconButton
        icon={playing ? "pause" : "play"}
        label={playing ? "Pause" : "Play"}
        shortcut="Space"
        className="play"
        disabled={busy}
        onClick={togglePlay}
      />
      <IconButton icon="forward" label="One frame forward" shortcut="→" disabled={!session} onClick={() => step(1)} />
      <IconButton icon="last" label="Last frame" shortcut="End" disabled={!session} onClick={() => goTo(total - 1)} />
      <output className="counter" aria-label="Frame">
        {session ? `${frame + 1} / ${total}` : "–"}
        {session && <small>{(frame / session.fps).toFixed(2)} s</small>}
      </output>
      <ZoomControls />
    </div>
  );
}
