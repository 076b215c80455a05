import { useState } from "react";
import { loadBackdrop } from "../effects/backdrop";
import { featherOf } from "../media/edges";
import { cutoutOf, exportPhotos, PHOTO_FORMATS, withMasks } from "../photos/downloads";
import { currentPhoto, usePhotos } from "../photos/list";
import { projectOf } from "../photos/project";
import { getState, useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";
import { DownloadList } from "./DownloadList";
import { stemOf } from "./files";
import { CopyCutout } from "./CopyCutout";
import { EdgesChoice } from "./EdgesChoice";
import { FrameRenderer } from "./frames";
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
    make: async () => ({ name: `${stem()}_masks.png`, content: await drawnPhoto() }),
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
          <NumberChoice name="Validation (%)" value={percent} max={90} step={5} onChange={setPercent} />
          <NumberChoice name="Seed" value={seed} max={999_999} step={1} onChange={setSeed} />
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
            <EdgesChoice drawn="Image" />
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

interface ChoiceProps {
  name: string;
  value: number;
  max: number;
  step: number;
  onChange: (value: number) => void;
}

function NumberChoice({ name, value, max, step, onChange }: ChoiceProps) {
  const change = (text: string) => onChange(Math.min(max, Math.max(0, Math.round(Number(text)))));
  return (
    <label className="file-choice">
      {name}
      <input
        type="number"
        min={0}
        max={max}
        step={step}
        value={value}
        onChange={({ target }) => change(target.value)}
      />
    </label>
  );
}

const NEEDS_SERVER = "; Label Studio and GeoJSON need sam2fast serve: this page has no server.";

/** The photograph as the page shows it, in its full size. */
async function drawnPhoto(): Promise<Blob> {
  const { clip, scene, masks, look, edges } = getState();
  const image = new Image();
  image.src = clip!.url;
  await Promise.all([image.decode(), loadBackdrop(look.image)]);
  const canvas = new FrameRenderer({ scene, masks, look, feather: featherOf(edges) }, clip!).draw(image, 0).canvas;
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The photograph cannot be drawn."))));
  });
}
