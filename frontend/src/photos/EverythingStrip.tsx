import { useEffect, useRef } from "react";
import { isPhoto } from "../api/video";
import { maskBounds } from "../masks/rle";
import { readPhoto } from "../media/stills";
import {
  acceptChosen,
  chooseAll,
  closeCandidates,
  dropChosen,
  toggleCandidate,
  useEverything,
  type Candidate,
} from "../precision/everything";
import { useStore } from "../state/store";
import { IconButton } from "../ui/Icon";
import { goOn, useSimilar } from "./similar";

const [WIDTH, HEIGHT] = [112, 64]; // of a small image

/** The candidates in a row, to accept, merge or drop; in the place of the photographs. */
export function EverythingStrip() {
  const { candidates } = useEverything();
  const wanted = useSimilar((state) => state.wanted);
  if (!candidates) return null;
  const chosen = candidates.filter(({ isChosen }) => isChosen).length;
  const isAll = chosen === candidates.length;

  return (
    <section className="timeline photo-strip" aria-label="Candidates">
      <header>
        <output aria-label="Candidates">
          {chosen} of {candidates.length} chosen
        </output>
        {wanted && (
          <>
            <button type="button" className="primary" onClick={goOn} title="Add and next (F)">
              {chosen === 0 ? "None here, next" : `Add ${chosen} and next`}
            </button>
            <small className="hint">Looks like “{wanted.name}”. It need not be the same one.</small>
          </>
        )}
        <button type="button" onClick={() => chooseAll(!isAll)}>
          {isAll ? "Choose none" : "Choose all"}
        </button>
        {!wanted && (
          <>
            <button type="button" className="primary" disabled={chosen === 0} onClick={() => acceptChosen(false)}>
              Add as objects
            </button>
            <button type="button" disabled={chosen < 2} onClick={() => acceptChosen(true)}>
              Merge into one
            </button>
            <button type="button" disabled={chosen === 0} onClick={dropChosen}>
              Drop
            </button>
          </>
        )}
        <IconButton icon="close" label="Close the candidates" onClick={closeCandidates} />
      </header>
      <ol>
        {candidates.map((candidate, place) => (
          <Entry key={candidate.id} candidate={candidate} place={place} />
        ))}
      </ol>
    </section>
  );
}

function Entry({ candidate, place }: { candidate: Candidate; place: number }) {
  const { id, area, width, height, isChosen, likeness } = candidate;
  const share =
    likeness === undefined
      ? `${((100 * area) / (width * height)).toFixed(1)} %`
      : `${Math.round(100 * likeness)} % alike`;
  const isHighlighted = useEverything((state) => state.highlighted === id);
  const mark = (highlighted: number | null) => useEverything.setState({ highlighted });
  return (
    <li>
      <button
        type="button"
        className={`photo ${isHighlighted ? "highlighted" : ""}`}
        aria-pressed={isChosen}
        onClick={() => toggleCandidate(id)}
        onPointerEnter={() => mark(id)}
        onPointerLeave={() => mark(null)}
        onFocus={() => mark(id)}
        onBlur={() => mark(null)}
      >
        <Crop candidate={candidate} />
        <span className="photo-name">Candidate {place + 1}</span>
        <small>{share}</small>
      </button>
    </li>
  );
}

/** The part of the photograph around the mask. */
function Crop({ candidate }: { candidate: Candidate }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const clip = useStore((state) => state.clip);
  useEffect(() => {
    if (!clip || !isPhoto(clip)) return;
    let isWanted = true;
    const bounds = maskBounds(candidate);
    void readPhoto(
      clip.url,
      () => isWanted,
      (image) => {
        const scale = Math.min(WIDTH / bounds.width, HEIGHT / bounds.height);
        const [width, height] = [WIDTH / scale, HEIGHT / scale];
        const [x, y] = [bounds.left + (bounds.width - width) / 2, bounds.top + (bounds.height - height) / 2];
        canvas.current?.getContext("2d")?.drawImage(image, x, y, width, height, 0, 0, WIDTH, HEIGHT);
      },
    );
    return () => {
      isWanted = false;
    };
  }, [clip, candidate]);
  return <canvas ref={canvas} width={WIDTH} height={HEIGHT} aria-hidden="true" />;
}
