import { useState } from "react";
import { loadBackdrop } from "../effects/backdrop";
import { featherOf } from "../media/edges";
import { cutoutOf, exportPhotos, PHOTO_FORMATS, withMasks } from "../photos/downloads";
import { currentPhoto, usePhotos } from "../photos/list";
import { projectOf } from "../photos/project";
import { getState, useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";
import { NumberField } from "../ui/NumberField";
import { DownloadList } from "./DownloadList";
import { stemOf } from "./files";
import { CopyCutout } from "./CopyCutout";
import { EdgesChoice } from "./EdgesChoice";
import { FrameRenderer } from "./frames";
import { withMattes, type Task } from "./formats";
import type { Offer } from "./running";
import { SimplifyChoice, TOLERANCE } from "./SimplifyChoice";

/** Files of one photograph, or of all in the list. */
export function PhotoDownloadDialog() {
  const items = usePhotos((state) => state.items);
  const lacks = useStore((state) => state.limits?.lacks);
  const [all, setAll] = useState(items.length > 1);
  const [tolerance, setTolerance] = useState(TOLERANCE);
  const [crop, setCrop] = useState(false);
  const chosen = () => (all ? usePhotos.getState().items : [currentPhoto()!]);
  const stem = () => (all ? "photographs" : stemOf(getState().clip!.name));
  const [percent, setPercent] = useState(0);
  const [seed, setSeed] = useState(0);
  const isSplittable = all && items.length > 1;
  const split = isSplittable && percent > 0 ? { percent, seed } : null;
  const formats = PHOTO_FORMATS.filter(({ kind }) => !lacks?.includes(kind));
  const masks = formats.map(({ name, what, suffix, kind }): Offer => ({
    ...{ name, what, group: kind === "cutout" ? "For editing" : "For training" },
    make: async (_, signal) => ({
      name: stem() + suffix,
      content: await exportPhotos(kind, { tolerance, split, crop }, await withMasks(chosen()), signal),
    }),
  }));
  const image: Offer = {
    name: "Image",
    group: "For editing",
    what: "As you see it, in its full size (PNG).",
    make: async (report, signal) => ({ name: `${stem()}_masks.png`, content: await drawnPhoto(report, signal) }),
  };
  const project: Offer = {
    name: "Project",
    group: "To continue",
    what: "The work, here or elsewhere, without the photographs themselves.",
    make: async () => ({ name: `${stem()}.sam2fast.json`, content: await projectOf(chosen()) }),
  };

  return (
    <Dialog title="Download">
      {items.length > 1 && (
        <div className="row" role="group" aria-label="Photographs in the file">
          <button type="button" aria-pressed={all} onClick={() => setAll(true)}>
            All {items.length} photographs
          </button>
          <button type="button" aria-pressed={!all} onClick={() => setAll(false)}>
            This one
          </button>
        </div>
      )}
      <SimplifyChoice formats="YOLO, LabelMe and GeoJSON" size="seen" tolerance={tolerance} onChange={setTolerance} />
      {isSplittable && (
        <>
          <NumberField name="Validation (%)" value={percent} min={0} max={90} step={5} onChange={setPercent} />
          <NumberField name="Seed" value={seed} min={0} max={999_999} onChange={setSeed} />
          <p className="hint">
            COCO and YOLO files then have this share of the photographs in a part of its own; the seed chooses which.
          </p>
        </>
      )}
      <DownloadList
        offers={[...masks, ...(all ? [] : [image]), project]}
        remembered="sam2fast-download-photo"
        editing={
          <>
            <EdgesChoice />
            <label className="file-choice">
              <input type="checkbox" checked={crop} onChange={({ target }) => setCrop(target.checked)} />
              Crop cut-outs to the objects
            </label>
            {!all && <CopyCutout make={() => cutoutOf(currentPhoto()!, crop)} />}
          </>
        }
        hint={`Masks have the size of the photograph. Photographs without masks are left out${lacks ? NEEDS_SERVER : "."}`}
      />
    </Dialog>
  );
}

const NEEDS_SERVER = "; Label Studio and GeoJSON need sam2fast serve: this page has no server.";

/** The photograph as the page shows it, in its full size. */
async function drawnPhoto(report: Task["report"], signal: AbortSignal): Promise<Blob> {
  const { clip, session, scene, masks, look, edges } = getState();
  const drawn = { scene, masks, look, feather: featherOf(edges), mattes: null };
  const settings = { size: "seen", quality: "high", tolerance: 0 } as const;
  const { work } = await withMattes({ ...settings, clip: clip!, session: session!, work: drawn, report, signal });
  const image = new Image();
  image.src = clip!.url;
  await Promise.all([image.decode(), loadBackdrop(look.image)]);
  const { canvas } = await new FrameRenderer(work, clip!).draw(image, 0);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The photograph cannot be drawn."))));
  });
}
