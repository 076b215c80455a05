import { useEffect, useRef } from "react";
import { readStill } from "../media/stills";
import { useStore } from "../state/store";

const DELAY_MS = 150; // after a change of the size

/** Frames of the video at equal distances. */
export function Filmstrip() {
  const clip = useStore((state) => state.clip);
  const session = useStore((state) => state.session);
  const canvas = useRef<HTMLCanvasElement>(null);
  const fps = session?.fps;
  const numFrames = session?.numFrames ?? 0;

  useEffect(() => {
    const strip = canvas.current!;
    strip.getContext("2d")!.clearRect(0, 0, strip.width, strip.height); // of the video before
    if (!clip || !fps) return;
    let drawing = {}; // of the current size
    let timer = 0;
    const draw = () => {
      const mine = (drawing = {});
      const height = Math.round(strip.clientHeight * devicePixelRatio);
      const width = Math.round(strip.clientWidth * devicePixelRatio);
      if (width === 0 || height === 0) return; // another sheet is shown
      strip.width = width;
      strip.height = height;
      const tiles = Math.max(1, Math.min(numFrames, Math.round((width / height) * (clip.height / clip.width))));
      for (let tile = 0; tile < tiles; tile += 1) {
        const frame = Math.floor(((tile + 0.5) / tiles) * numFrames);
        readStill(
          clip.url,
          frame,
          fps,
          () => drawing === mine,
          (video) => drawTile(strip, video, tile, tiles),
        );
      }
    };
    const observer = new ResizeObserver(() => {
      clearTimeout(timer);
      timer = window.setTimeout(draw, DELAY_MS);
    });
    observer.observe(strip);
    return () => {
      drawing = {};
      clearTimeout(timer);
      observer.disconnect();
    };
  }, [clip, fps, numFrames]);

  return <canvas ref={canvas} className="filmstrip" aria-hidden="true" />;
}

/** Fills the tile with the middle of the frame. */
function drawTile(strip: HTMLCanvasElement, video: HTMLVideoElement, tile: number, tiles: number): void {
  const context = strip.getContext("2d")!;
  const left = Math.round((tile * strip.width) / tiles);
  const width = Math.round(((tile + 1) * strip.width) / tiles) - left;
  const scale = Math.max(width / video.videoWidth, strip.height / video.videoHeight);
  const [seenWidth, seenHeight] = [width / scale, strip.height / scale];
  const x = (video.videoWidth - seenWidth) / 2;
  const y = (video.videoHeight - seenHeight) / 2;
  context.drawImage(video, x, y, seenWidth, seenHeight, left, 0, width, strip.height);
}
