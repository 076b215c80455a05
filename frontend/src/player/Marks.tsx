import { promptAt, type Box } from "../scene/scene";
import * as editing from "../state/editing";
import { isTracking, useStore } from "../state/store";
import { DeleteMark } from "./DeleteMark";

const percent = (share: number) => `${100 * share}%`;

/**
 * The points and boxes of the current frame. Those of the selected object have buttons that delete them; where other
 * objects have theirs, the pointer clicks and draws.
 */
export function Marks({ draft }: { draft: Box | null }) {
  const scene = useStore((state) => state.scene);
  const active = useStore((state) => state.active);
  const frame = useStore((state) => state.frame);
  const isHidden = useStore((state) => state.playing || (isTracking(state.tracking) && state.following));
  if (isHidden) return null;

  return (
    <>
      {scene.objects.map(({ id, name, colour, prompts }) => {
        const { points, box } = promptAt({ prompts }, frame);
        return (
          <div key={id} style={{ "--colour": colour } as React.CSSProperties}>
            {box && (
              <div className={id === active ? "box-mark" : "box-mark quiet"} style={placeBox(box)}>
                {id === active && (
                  <DeleteMark label={`Box of ${name}: delete`} onDelete={() => editing.deleteBox(id, frame)}>
                    ×
                  </DeleteMark>
                )}
              </div>
            )}
            {points.map(({ x, y, positive }, index) => {
              const key = `${x} ${y} ${index}`;
              const className = `point ${positive ? "positive" : "negative"}`;
              const style = { left: percent(x), top: percent(y) };
              if (id !== active) return <div key={key} className={`${className} quiet`} style={style} />;
              return (
                <DeleteMark
                  key={key}
                  className={className}
                  style={style}
                  label={`${positive ? "Included" : "Excluded"} point ${index + 1} of ${name}: delete`}
                  onDelete={() => editing.deletePoint(id, frame, index)}
                />
              );
            })}
          </div>
        );
      })}
      {draft && <div className="box-mark draft" style={placeBox(draft)} />}
    </>
  );
}

function placeBox({ left, top, right, bottom }: Box): React.CSSProperties {
  return { left: percent(left), top: percent(top), width: percent(right - left), height: percent(bottom - top) };
}
