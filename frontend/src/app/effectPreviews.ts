import { useEffect, useState, type RefObject } from "react";
import { MaskBitmaps } from "../masks/bitmaps";
import { isSettled, shownElement, sizeOf, type Shown } from "../media/shown";
import type { Size } from "../scene/geometry";
import { getState, isTracking, useStore } from "../state/store";
import { layersOf } from "../effects/layers";
import type { Look } from "../effects/look";
import { renderFrame, type Layer } from "../effects/render";

/** The current frame and its objects in small, on which the effects are shown. */
export interface SmallFrame {
  readonly image: HTMLCanvasElement;
  readonly layers: readonly Layer[];
  readonly frame: number;
}

const LONGER = 96; // side of a preview, in pixels
const DELAY_MS = 250; // after a change; while the video plays or is tracked, previews stay
const KEYS = ["session", "frame", "masks", "scene", "playing", "tracking"] as const;

/** The small frame while the panel is seen; null before there is one. */
export function useSmallFrame(panel: RefObject<HTMLElement | null>): SmallFrame | null {
  const [small, setSmall] = useState<SmallFrame | null>(null);
  useEffect(() => {
    let timer = 0;
    const update = () => {
      const shown = shownElement();
      const { session, playing, tracking } = getState();
      if (!session) setSmall(null);
      else if (panel.current?.clientHeight && shown && !playing && !isTracking(tracking)) {
        if (isSettled(shown)) setSmall(shrink(shown));
        else later();
      }
    };
    const later = () => {
      clearTimeout(timer);
      timer = window.setTimeout(update, DELAY_MS);
    };
    const unsubscribe = useStore.subscribe((state, before) => {
      if (KEYS.some((key) => state[key] !== before[key])) later();
    });
    const observer = new ResizeObserver(later); // on small screens the panel is one of several sheets
    observer.observe(panel.current!);
    return () => {
      clearTimeout(timer);
      unsubscribe();
      observer.disconnect();
    };
  }, [panel]);
  return small;
}

export function drawLook(canvas: HTMLCanvasElement, { image, layers, frame }: SmallFrame, look: Look): void {
  const { width, height } = image;
  [canvas.width, canvas.height] = [width, height];
  renderFrame(canvas.getContext("2d")!, image, { width, height }, layers, look, frame);
}

function shrink(shown: Shown): SmallFrame {
  const { width, height } = sizeOf(shown);
  const scale = LONGER / Math.max(width, height);
  const size = { width: Math.max(1, Math.round(scale * width)), height: Math.max(1, Math.round(scale * height)) };
  const image = canvasOf(size, (context) => context.drawImage(shown, 0, 0, size.width, size.height));
  const { frame, masks, scene } = getState();
  const layers = layersOf({ masks, scene, hovered: null }, frame, new MaskBitmaps()).map((layer) => {
    const { left, top, width, height } = layer.bounds;
    const [x, y] = [size.width / layer.mask.width, size.height / layer.mask.height];
    const mask = canvasOf(size, (context) => context.drawImage(layer.mask, 0, 0, size.width, size.height));
    return { ...layer, mask, bounds: { left: x * left, top: y * top, width: x * width, height: y * height } };
  });
  return { image, layers: layers.length > 0 ? layers : [placeholder(size)], frame };
}

/** In place of objects, as long as there are none: an ellipse in the middle. */
function placeholder(size: Size): Layer {
  const [width, height] = [0.4 * size.width, 0.6 * size.height];
  const { id, colour } = getState().scene.objects[0]!;
  const mask = canvasOf(size, (context) => {
    context.fillStyle = colour;
    context.ellipse(size.width / 2, size.height / 2, width / 2, height / 2, 0, 0, 2 * Math.PI);
    context.fill();
  });
  const bounds = { left: (size.width - width) / 2, top: (size.height - height) / 2, width, height };
  return { id, mask, colour, bounds, isHighlighted: false };
}

function canvasOf(size: Size, draw: (context: CanvasRenderingContext2D) => void): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [size.width, size.height];
  draw(canvas.getContext("2d")!);
  return canvas;
}
