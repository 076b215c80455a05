import { useEffect, useRef, type RefObject } from "react";
import { layersOf } from "../effects/layers";
import { renderFrame } from "../effects/render";
import { MaskBitmaps } from "../masks/bitmaps";
import { getState, setState, useStore, type State } from "../state/store";
import { FrameClock } from "./clock";

const HAS_CURRENT_DATA = 2; // HTMLMediaElement.HAVE_CURRENT_DATA

/** Keeps the video at the store's frame, and draws the visible frame on the canvas. */
export function usePlayer(
  video: RefObject<HTMLVideoElement | null>,
  canvas: RefObject<HTMLCanvasElement | null>,
): void {
  const session = useStore((state) => state.session);
  const bitmaps = useRef(new MaskBitmaps());

  useEffect(() => {
    const player = video.current;
    const context = canvas.current?.getContext("2d");
    if (!session || !player || !context) return;
    let shown = getState().frame; // differs from the store's frame during a seek
    let request = 0;

    const draw = () => {
      request = 0;
      if (player.readyState < HAS_CURRENT_DATA) return;
      const { width, height } = context.canvas;
      const state = getState();
      renderFrame(context, player, { width, height }, layersOf(state, shown, bitmaps.current), state.look, shown);
      context.canvas.dataset["frame"] = String(shown);
    };
    const requestDraw = () => {
      request ||= requestAnimationFrame(draw);
    };
    const clock = new FrameClock(player, session.fps, session.numFrames, (frame) => {
      shown = frame;
      if (getState().playing) setState({ frame });
      draw();
    });
    const follow = (state: State, before: State) => {
      if (state.playing !== before.playing) {
        if (state.playing) player.play().catch(() => setState({ playing: false }));
        else player.pause();
      }
      const hasStopped = before.playing && !state.playing;
      if (!state.playing && (state.frame !== before.frame || hasStopped)) clock.show(state.frame);
      if (REDRAW_KEYS.some((name) => state[name] !== before[name])) requestDraw();
    };
    if (player.error) player.load(); // after a lost connection
    const unsubscribe = useStore.subscribe(follow);
    clock.show(shown);
    return () => {
      unsubscribe();
      clock.stop();
      cancelAnimationFrame(request);
    };
  }, [session, video, canvas]);
}

const REDRAW_KEYS = ["masks", "look", "hovered", "scene"] as const;
