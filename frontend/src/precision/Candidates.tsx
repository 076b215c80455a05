import { useEffect, useRef } from "react";
import type { Proposal } from "../api/rest";
import { maskCanvas } from "../masks/bitmaps";
import { masksAt } from "../masks/masks";
import { maskBounds } from "../masks/rle";
import { isSettled, shownElement, sizeOf } from "../media/shown";
import { cropAround } from "../scene/geometry";
import { useStore } from "../state/store";
import { chooseCandidate, percent, useCandidates } from "./candidates";

const SIDE = 88; // of a thumbnail, in its own pixels
const MARGIN = 0.15; // around the mask, as a share of its longer side
const SHADE = "rgb(0 0 0 / 45%)";

/** The masks proposed for the active object's first click on this frame, to choose from; beside the frame. */
export function Candidates() {
  const offer = useCandidates((state) => state.offer);
  const active = useStore((state) => state.active);
  const frame = useStore((state) => state.frame);
  const mask = useStore((state) => masksAt(state.masks, state.frame).get(state.active));
  const isHidden = useStore((state) => state.playing || state.phase !== "ready");
  if (!offer || isHidden || offer.object !== active || offer.frame !== frame) return null;

  return (
    <div className="candidates" role="group" aria-label="Masks for this click">
      {offer.masks.map((candidate, place) => (
        <button
          key={place}
          type="button"
          aria-pressed={candidate.counts === mask?.counts}
          aria-label={`Mask ${place + 1}, predicted quality ${percent(candidate.iou)}`}
          title={`Predicted quality ${percent(candidate.iou)} (C: the next mask)`}
          onClick={() => chooseCandidate(place)}
        >
          <Thumbnail mask={candidate} />
          <small aria-hidden="true">{percent(candidate.iou).replace(" percent", " %")}</small>
        </button>
      ))}
    </div>
  );
}

/** The mask's part of the frame, dark outside of the mask. */
function Thumbnail({ mask }: { mask: Proposal }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const context = canvas.current!.getContext("2d")!;
    const shown = shownElement()!;
    const crop = cropAround(maskBounds(mask), mask, MARGIN);
    const across = SIDE / Math.max(crop.width, crop.height);
    const [width, height] = [crop.width * across, crop.height * across];
    const target = [(SIDE - width) / 2, 0, width, height] as const; // the score is below
    const draw = () => {
      if (!isSettled(shown)) return;
      const scale = sizeOf(shown).width / mask.width;
      context.clearRect(0, 0, SIDE, SIDE);
      const { left, top } = crop;
      context.drawImage(maskCanvas(mask, "#000000"), left, top, crop.width, crop.height, ...target);
      // Outside of the mask the frame shows through black, inside as it is.
      context.globalCompositeOperation = "source-out";
      context.fillStyle = SHADE;
      context.fillRect(0, 0, SIDE, SIDE);
      context.globalCompositeOperation = "destination-over";
      context.drawImage(shown, scale * left, scale * top, scale * crop.width, scale * crop.height, ...target);
      context.globalCompositeOperation = "source-over";
    };
    draw();
    shown.addEventListener("seeked", draw);
    return () => shown.removeEventListener("seeked", draw);
  }, [mask]);
  return <canvas ref={canvas} width={SIDE} height={SIDE} />;
}
