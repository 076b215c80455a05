import { Dialog } from "./Dialog";
import { SHORTCUTS } from "./shortcuts";

const POINTER = [
  ["Click", "Add a point to the chosen object"],
  ["Right click, long press", "Add the opposite: exclude instead of include"],
  ["Click on a point", "Delete it"],
  ["Drag with the box tool", "Draw a box around the object"],
  ["Arrows with Shift, Enter", "On the focused picture: move a cross-hair, add a point there"],
] as const;

export function HelpDialog() {
  return (
    <Dialog title="Help">
      <div className="help">
        <h3>In the picture</h3>
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
          {SHORTCUTS.map(({ keys, does }) => (
            <div key={keys}>
              <dt>
                <kbd>{keys}</kbd>
              </dt>
              <dd>{does}</dd>
            </div>
          ))}
        </dl>
        <p>
          Click the things you want, one object each; a point to exclude cuts away what does not belong. Tracking then
          follows all of them through the video. Where a mask goes wrong, click again on that frame and track again.
        </p>
        <p>
          <a href="/licences.txt">Licences of the software in this page</a>
        </p>
      </div>
    </Dialog>
  );
}
