import cat from "../../../sam2fast/demo/media/cat.jpg";
import coffee from "../../../sam2fast/demo/media/coffee.jpg";
import { asApiError } from "../api/errors";
import { notify, useStore } from "../state/store";
import { addPhotos } from "./list";

const SAMPLES = { Coffee: coffee, Cat: cat };

/** The gallery's tiles for the photographs of the package, which are opened as a user's own. */
export function SamplePhotos() {
  const opensPhotos = useStore((state) => state.limits?.photoFormats !== undefined);
  if (!opensPhotos) return null;
  return Object.entries(SAMPLES).map(([name, url]) => (
    <li key={name}>
      <button type="button" className="tile" onClick={() => void open(name, url)}>
        <img src={url} alt="" />
        <span className="tile-name">{name}</span>
      </button>
    </li>
  ));
}

async function open(name: string, url: string): Promise<void> {
  try {
    const content = await (await fetch(url)).blob();
    // Always the same time, so that the list knows the file.
    await addPhotos([new File([content], `${name.toLowerCase()}.jpg`, { type: content.type, lastModified: 0 })]);
  } catch (error) {
    notify("error", asApiError(error).message);
  }
}
