import { useEffect, useRef, useState } from "react";
import { asApiError } from "../api/errors";
import { exportPhotos, PHOTO_FORMATS, withMasks } from "../photos/downloads";
import { currentPhoto, usePhotos } from "../photos/list";
import { projectOf } from "../photos/project";
import { handleFailure } from "../state/failures";
import { announce, getState, setState, useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";
import { formatSize, saveFile, stemOf } from "./files";
import { FrameRenderer } from "./frames";

type Make = (signal: AbortSignal) => Promise<{ name: string; content: Blob }>;

/** Makes files of one photograph, or of all in the list. */
export function PhotoDownloadDialog() {
  const items = usePhotos((state) => state.items);
  const lacks = useStore((state) => state.limits?.lacks);
  const [all, setAll] = useState(items.length > 1);
  const [busy, setBusy] = useState<string | null>(null);
  const [finished, setFinished] = useState("");
  const [problem, setProblem] = useState("");
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);

  const run = async (name: string, make: Make) => {
    const { signal } = (abort.current = new AbortController());
    setBusy(name);
    setProblem("");
    setFinished("");
    try {
      const file = await make(signal);
      if (signal.aborted) return;
      saveFile(file.content, file.name);
      setFinished(`${file.name}, ${formatSize(file.content.size)}`);
      announce(`${file.name} is downloaded.`);
    } catch (error) {
      if (signal.aborted) return;
      const { failure, message } = asApiError(error);
      setProblem(message);
      if (failure === "network") {
        setState({ dialog: null });
        handleFailure(error);
      }
    } finally {
      setBusy(null);
    }
  };
  const chosen = () => (all ? usePhotos.getState().items : [currentPhoto()!]);
  const stem = () => (all ? "photographs" : stemOf(getState().clip!.name));
  const formats = PHOTO_FORMATS.filter(({ kind }) => !lacks?.includes(kind));

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
      <ul className="downloads">
        {formats.map(({ name, what, suffix, kind }) => (
          <li key={name}>
            <button
              type="button"
              disabled={busy !== null}
              onClick={() =>
                void run(name, async (signal) => ({
                  name: stem() + suffix,
                  content: await exportPhotos(kind, await withMasks(chosen()), signal),
                }))
              }
            >
              {name}
            </button>
            <span>{busy === name ? "Writing …" : what}</span>
          </li>
        ))}
        {!all && (
          <li>
            <button
              type="button"
              disabled={busy !== null}
              onClick={() =>
                void run("Image", async () => ({ name: `${stem()}_masks.png`, content: await drawnPhoto() }))
              }
            >
              Image
            </button>
            <span>As you see it, in its full size (PNG).</span>
          </li>
        )}
        <li>
          <button
            type="button"
            disabled={busy !== null}
            onClick={() =>
              void run("Project", async () => ({ name: `${stem()}.sam2fast.json`, content: await projectOf(chosen()) }))
            }
          >
            Project
          </button>
          <span>To continue later, here or elsewhere, without the photographs themselves.</span>
        </li>
      </ul>
      <p className="hint">
        Masks have the size of the photograph. Photographs without masks are left out
        {lacks ? "; Label Studio and GeoJSON need sam2fast serve: this page has no server." : "."}
      </p>
      {busy && (
        <button type="button" onClick={() => abort.current?.abort()}>
          Cancel
        </button>
      )}
      {finished && <p>{finished}</p>}
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
    </Dialog>
  );
}

/** The photograph as the page shows it, in its full size. */
async function drawnPhoto(): Promise<Blob> {
  const { clip, scene, masks, look } = getState();
  const image = new Image();
  image.src = clip!.url;
  await image.decode();
  const canvas = new FrameRenderer({ scene, masks, look }, clip!).draw(image, 0).canvas;
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The photograph cannot be drawn."))));
  });
}
