import { useEffect, useRef, type RefObject } from "react";
import { layersOf } from "../effects/layers";
import { renderFrame } from "../effects/render";
import { MaskBitmaps } from "../masks/bitmaps";
import { GREY } from "../media/grey";
import type { Size } from "../scene/geometry";
import { getState, useStore } from "../state/store";

/** Draws the open photograph with its masks on the canvas. */
export function usePhoto(photo: RefObject<HTMLImageElement | null>, canvas: RefObject<HTMLCanvasElement | null>): void {
  const session = useStore((state) => state.session);
  const bitmaps = useRef(new MaskBitmaps());

  useEffect(() => {
    const image = photo.current;
    const context = canvas.current?.getContext("2d");
    if (!session || !image || !context) return;
    let request = 0;
    let opaque: HTMLCanvasElement | null = null; // in the canvas's size: drawing a large photograph again takes long
    const draw = () => {
      request = 0;
      const { clip, look, ...state } = getState();
      if (!clip || !image.complete || image.naturalWidth === 0) return;
      const { width, height } = context.canvas;
      opaque ??= overGrey(image, { width, height });
      const layers = layersOf(state, 0, bitmaps.current, width / clip.width);
      renderFrame(context, opaque, { width, height }, layers, look, 0);
      context.canvas.dataset["frame"] = "0";
    };
    const requestDraw = () => {
      request ||= requestAnimationFrame(draw);
    };
    const unsubscribe = useStore.subscribe((state, before) => {
      if (REDRAW_KEYS.some((name) => state[name] !== before[name])) requestDraw();
    });
    image.addEventListener("load", requestDraw);
    requestDraw();
    return () => {
      unsubscribe();
      image.removeEventListener("load", requestDraw);
      cancelAnimationFrame(request);
    };
  }, [session, photo, canvas]);
}

function overGrey(image: HTMLImageElement, { width, height }: Size): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d")!;
  context.imageSmoothingQuality = "high";
  context.fillStyle = GREY;
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
  return canvas;
}

const REDRAW_KEYS = ["masks", "look", "hovered", "scene"] as const;
