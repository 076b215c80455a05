import { promptedFrames } from "../scene/scene";
import { useStore } from "../state/store";

/** After the first click: says what the next one does. */
export function ClickHint() {
  const clicks = useStore(({ scene: { objects }, tracking }) => {
    const [first] = objects;
    if (objects.length !== 1 || !first || tracking.state !== "never") return 0;
    const frames = promptedFrames(first);
    return frames.length === 1 ? first.prompts[frames[0]!]!.points.length : 0;
  });
  if (clicks !== 1 && clicks !== 2) return null;
  return (
    <p className="click-hint">
      {clicks === 1 ? (
        <>
          Click again to refine, <NewObject /> for another object
        </>
      ) : (
        <>
          That went to the same object. <NewObject /> begins another one
        </>
      )}
    </p>
  );
}

/** The key, and the button where there may be no keyboard. */
function NewObject() {
  return (
    <>
      <kbd className="with-keys">N</kbd>
      <span className="by-touch">“Add an object”</span>
    </>
  );
}
