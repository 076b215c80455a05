import { useState } from "react";
import type { FileSize } from "../api/rest";
import type { FileQuality } from "../media/quality";
import { trackedState } from "../state/plan";
import { useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";
import { DownloadList } from "./DownloadList";
import { EdgesChoice } from "./EdgesChoice";
import { FORMATS, makeDownload } from "./formats";
import { SimplifyChoice, TOLERANCE } from "./SimplifyChoice";

const UNTRACKED = "Some frames are not tracked: they have no masks in the files.";
const MISSING = {
  never: UNTRACKED,
  partial: UNTRACKED,
  stale: "Hatched frames have masks from before the last change.",
  done: null,
};

/** Files of what the page shows, under the video's name. */
export function DownloadDialog() {
  const missing = useStore(({ scene, masks, session }) => MISSING[trackedState(scene, masks, session!.numFrames)]);
  const clip = useStore((state) => state.clip);
  const source = useStore((state) => state.session?.source ?? null);
  const [size, setSize] = useState<FileSize>("source");
  const [tolerance, setTolerance] = useState(TOLERANCE);
  const [quality, setQuality] = useState<FileQuality>("high");
  const lacks = useStore((state) => state.limits?.lacks);
  const offers = FORMATS.filter(({ format }) => !lacks?.some((lacking) => lacking === format)).map((format) => ({
    ...{ name: format.name, group: format.group, what: format.what },
    make: makeDownload.bind(null, format, size, quality, tolerance),
  }));

  return (
    <Dialog title="Download">
      {missing && <p className="hint">{missing}</p>}
      {source && clip && (
        <label className="file-choice">
          Size
          <select value={size} onChange={({ target }) => setSize(target.value as FileSize)}>
            <option value="source">
              {source.width} × {source.height}, your file’s
            </option>
            <option value="seen">
              {clip.width} × {clip.height}, as shown here: faster
            </option>
          </select>
        </label>
      )}
      <label className="file-choice">
        Quality
        <select value={quality} onChange={({ target }) => setQuality(target.value as FileQuality)}>
          <option value="high">High, for editing</option>
          <option value="smaller">Smaller MP4 and WebM files</option>
        </select>
      </label>
      <SimplifyChoice formats="YOLO and LabelMe" size={size} tolerance={tolerance} onChange={setTolerance} />
      <DownloadList
        offers={offers}
        hint="Files number frames from 0, this page from 1. The frames of a video stay together: its files are not split into training and validation."
        remembered="sam2fast-download-video"
        editing={<EdgesChoice />}
      />
    </Dialog>
  );
}
