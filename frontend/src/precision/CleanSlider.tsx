import { useRef } from "react";
import { counted } from "../scene/counted";
import { promptedFrames, type Scene, type SceneObject } from "../scene/scene";
import { areaLimit } from "../scene/shown";
import { cleanObjects } from "../state/editing";
import { getState, useStore } from "../state/store";

const MOST = 0.01; // of the frame's area

/** The area up to which specks of an object go and its holes are filled, in pixels of the source. */
export function CleanSlider({ object, locked }: { object: SceneObject; locked: boolean }) {
  const size = useStore(({ session, clip }) => session?.source ?? clip);
  const isAlone = useStore(({ scene }) => scene.objects.length === 1);
  const edited = useRef<Scene | null>(null); // by the present drag or visit, which is one undo step
  if (!size || promptedFrames(object).length === 0) return null;
  const pixels = size.width * size.height;
  const area = areaLimit(object, size);
  const begin = () => (edited.current = null);
  const change = (step: number) => {
    cleanObjects([object.id], areaAt(step) / pixels, edited.current === getState().scene);
    edited.current = getState().scene;
  };

  return (
    <div className="clean">
      <label title="Removes specks and fills holes of fewer pixels">
        Clean<span className="visually-hidden"> {object.name} of specks and holes</span>
        <input
          type="range"
          max={stepOf(MOST * pixels)}
          value={stepOf(area)}
          disabled={locked}
          aria-valuetext={area ? `under ${counted(area, "pixel")}` : "off"}
          onPointerDown={begin}
          onFocus={begin}
          onChange={({ target }) => change(target.valueAsNumber)}
        />
      </label>
      <output>{area ? `< ${area} px` : "Off"}</output>
      {!isAlone && (
        <button
          type="button"
          className="quiet-button"
          disabled={locked}
          onClick={() =>
            cleanObjects(
              getState().scene.objects.map(({ id }) => id),
              object.clean ?? 0,
            )
          }
        >
          Apply to all
        </button>
      )}
    </div>
  );
}

/** The areas of the slider's steps are 0, 2, 3, 4, 6, 8, 11 and so on. */
function areaAt(step: number): number {
  return step === 0 ? 0 : Math.round(2 ** ((step + 1) / 2));
}

function stepOf(area: number): number {
  return area < 2 ? 0 : Math.round(2 * Math.log2(area) - 1);
}
