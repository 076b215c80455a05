import { useEffect, useRef } from "react";
import { maskCanvas } from "../masks/bitmaps";
import { masksAt } from "../masks/masks";
import type { Mask } from "../masks/rle";
import { findObject } from "../scene/scene";
import { useStore } from "../state/store";
import { IconButton } from "../ui/Icon";
import { chooseCandidate, percent, useCandidates } from "./candidates";

const WIDTH = 84; // of a thumbnail, in pixels
const SHADE = "rgb(0 0 0 / 60%)";

/** The masks proposed for the active object's first click on this frame, to choose from. */
export function Candidates() {
  const offer = useCandidates((state) => state.offer);
  const active = useStore((state) => state.active);
  const frame = useStore((state) => state.frame);
  const object = useStore((state) => findObject(state.scene, state.active));
  const mask = useStore((state) => masksAt(state.masks, state.frame).get(state.active));
  const isHidden = useStore((state) => state.playing || state.phase !== "ready");
  if (!offer || !object || isHidden || offer.object !== active || offer.frame !== frame) return null;
  // On the side where the object is not.
  const isLeft = (object.prompts[frame]?.points[0]?.x ?? 0) > 0.5;

  return (
    <div className={`candidates ${isLeft ? "left" : ""}`} role="group" aria-label="Masks for this click">
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
        </button>
      ))}
      <IconButton icon="close" label="Hide the other masks" onClick={() => useCandidates.setState({ offer: null })} />
    </div>
  );
}

/** The frame in small, dark outside of the mask. */
function Thumbnail({ mask }: { mask: Mask }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const height = Math.round((WIDTH * mask.height) / mask.width);
  useEffect(() => {
    const context = canvas.current!.getContext("2d")!;
    const video = document.querySelector<HTMLVideoElement | HTMLImageElement>(".frame video, .frame img")!;
    const draw = () => {
      if ("seeking" in video && video.seeking) return; // it shows another frame
      context.clearRect(0, 0, WIDTH, height);
      context.drawImage(maskCanvas(mask, "#000000"), 0, 0, WIDTH, height);
      // Outside of the mask the frame shows through black, inside as it is.
      context.globalCompositeOperation = "source-out";
      context.fillStyle = SHADE;
      context.fillRect(0, 0, WIDTH, height);
      context.globalCompositeOperation = "destination-over";
      context.drawImage(video, 0, 0, WIDTH, height);
      context.globalCompositeOperation = "source-over";
    };
    draw();
    video.addEventListener("seeked", draw);
    return () => video.removeEventListener("seeked", draw);
  }, [mask, height]);
  return <canvas ref={canvas} width={WIDTH} height={height} />;
}
