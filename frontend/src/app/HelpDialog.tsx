import { isPhoto } from "../api/video";
import { useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";
import { currentShortcuts } from "./shortcuts";

const POINTER = [
  ["Click", "Add a point to the selected object"],
  ["Right click, long press", "Add the opposite: exclude instead of include"],
  ["Click on a point", "Delete it"],
  ["Drag with the box tool", "Draw a box around the object"],
  ["Drag with a brush", "Add to the mask or remove from it; with the right button the opposite"],
  ["Wheel, two fingers", "Zoom; drag the zoomed video to move it"],
  ["A finger that moves", "Aim with the loupe; the click is where it is lifted"],
  ["Arrows with Shift, Enter", "On the focused frame: move a crosshair, add a point, a box’s corner, or paint there"],
] as const;

export function HelpDialog() {
  const isStill = useStore(({ clip }) => clip !== null && isPhoto(clip));
  return (
    <Dialog title="Help">
      <div className="help">
        <h3>{isStill ? "In the photograph" : "In the video"}</h3>
        <dl>
          {POINTER.map(([how, does]) => (
            <div key={how}>
              <dt>{how}</dt>
              <dd>{does}</dd>
            </div>
          ))}
        </dl>
        <h3>Keys</h3>
        <dl>
          {currentShortcuts().map(({ keys, does }) => (
            <div key={keys}>
              <dt>
                <kbd>{keys}</kbd>
              </dt>
              <dd>{does}</dd>
            </div>
          ))}
        </dl>
        {isStill ? (
          <p>
            Click each object; an excluded point removes a part that does not belong to it. The masks are kept when you
            go to another photograph, and downloads have those of all.
          </p>
        ) : (
          <p>
            Click each object that you want to track; an excluded point removes a part that does not belong to it.
            Tracking then finds all objects in the whole video. Where a mask is wrong, click on that frame and track
            again.
          </p>
        )}
        <p>
          <a href="/licences.txt">Licences of the software in this page</a>
        </p>
      </div>
    </Dialog>
  );
}
