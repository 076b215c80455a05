import { IconButton } from "../ui/Icon";
import { showWhole, useZoom, zoomBy, ZOOM_STEP } from "./zoom";

/** Buttons to zoom; the one in the middle shows the scale, and the whole frame again. */
export function ZoomControls() {
  const scale = useZoom(({ view }) => view.scale);
  return (
    <div className="zoom-controls" role="group" aria-label="Zoom" data-zoomed={scale > 1}>
      <IconButton icon="zoomOut" label="Zoom out" shortcut="−" onClick={() => zoomBy(1 / ZOOM_STEP)} />
      <button type="button" title="Show the whole frame (0)" onClick={showWhole} disabled={scale === 1}>
        {Math.round(100 * scale)} %
      </button>
      <IconButton icon="zoomIn" label="Zoom in" shortcut="+" onClick={() => zoomBy(ZOOM_STEP)} />
    </div>
  );
}
