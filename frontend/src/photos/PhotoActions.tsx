import { masksAt } from "../masks/masks";
import { toggleEverything, useEverything } from "../precision/everything";
import { firstPromptedFrame } from "../scene/scene";
import { setState, useStore } from "../state/store";
import { Icon } from "../ui/Icon";
import { toggleDone, usePhotos } from "./list";
import { toggleSimilar, useSimilar } from "./similar";

/** Buttons under the objects of a photograph; in the place of those that track. */
export function PhotoActions() {
  const ready = useStore((state) => state.phase === "ready" && state.connected);
  const hasPrompts = useStore((state) => firstPromptedFrame(state.scene) !== null);
  const share = useEverything((state) => state.share);
  const isLooking = share !== null;
  const wanted = useSimilar((state) => state.wanted);
  const hasMask = useStore(({ masks, active }) => (masksAt(masks, 0).get(active)?.area ?? 0) > 0);
  const hasOthers = usePhotos(({ items }) => items.length > 1);
  const lacksEverything = useStore((state) => state.limits?.lacks?.includes("everything") ?? false);
  const path = useStore((state) => state.clip?.path);
  const isDone = usePhotos(({ items }) => items.find(({ clip }) => clip?.path === path)?.done ?? false);
  const hasWork = usePhotos(({ items }) => items.some(({ objects }) => objects > 0));

  return (
    <div className="actions">
      <p className="hint">
        {hasPrompts
          ? "Refine the mask, add another object, or download."
          : "Click an object in the photograph to begin."}
      </p>
      {isLooking && (
        <div className="progress">
          <progress
            max={1}
            value={share}
            aria-label={wanted ? "Looking for similar objects" : "Looking for everything"}
          />
          <span>{wanted ? `Looking for what is like “${wanted.name}” …` : "Looking for everything …"}</span>
        </div>
      )}
      <button
        type="button"
        disabled={!ready || lacksEverything}
        onClick={toggleEverything}
        title={isLooking ? "Cancel (A)" : "Find everything (A)"}
      >
        <Icon name={isLooking ? "close" : "sparkles"} />
        {isLooking ? "Cancel" : "Everything here"}
      </button>
      {hasOthers && !lacksEverything && (
        <button
          type="button"
          aria-pressed={wanted !== null}
          disabled={!ready || !(hasMask || wanted)}
          onClick={() => void toggleSimilar()}
          title={wanted ? "Stop" : "Offer what looks like it (F)"}
        >
          <Icon name="forward" />
          Same object in the next photographs
        </button>
      )}
      {lacksEverything && (
        <p className="hint">
          “Everything here” and finding an object in other photographs need sam2fast serve: this page has no server.
        </p>
      )}
      <div className="row">
        <button type="button" aria-pressed={isDone} disabled={!ready} onClick={toggleDone} title="Done, and next (X)">
          <Icon name="check" />
          Done
        </button>
        <button
          type="button"
          className="primary"
          disabled={!ready || !(hasPrompts || hasWork)}
          onClick={() => setState({ dialog: "download" })}
          title="Download (D)"
        >
          <Icon name="download" />
          Download
        </button>
      </div>
    </div>
  );
}
