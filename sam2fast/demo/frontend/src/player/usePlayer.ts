import { useEffect, useRef, type RefObject } from "react";
import { renderFrame, type Layer } from "../effects/render";
import { MaskBitmaps } from "../masks/bitmaps";
import { getState, setState, useStore, type State } from "../state/store";
import { FrameClock } from "./clock";

const HAS_CURRENT_DATA = 2; // HTMLMediaElement.HAVE_CURRENT_DATA

/** Keeps the video at the store's frame and the canvas at what the video shows. */
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
    let shown = getState().frame; // differs from the store's while a seek is under way
    let isAsked = 0;

    const draw = () => {
      isAsked = 0;
      if (player.readyState < HAS_CURRENT_DATA) return;
      const { width, height } = context.canvas;
      const state = getState();
      renderFrame(context, player, { width, height }, layersOf(state, shown, bitmaps.current), state.look);
      context.canvas.dataset["frame"] = String(shown);
    };
    const askToDraw = () => {
      isAsked ||= requestAnimationFrame(draw);
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
      if (CHANGES_PICTURE.some((name) => state[name] !== before[name])) askToDraw();
    };
    if (player.error) player.load(); // the session has been started again after a lost connection
    const unsubscribe = useStore.subscribe(follow);
    clock.show(shown);
    return () => {
      unsubscribe();
      clock.stop();
      cancelAnimationFrame(isAsked);
    };
  }, [session, video, canvas]);
}

const CHANGES_PICTURE = ["masksVersion", "look", "hovered", "scene"] as const;

function layersOf({ book, scene, hovered }: State, frame: number, bitmaps: MaskBitmaps): Layer[] {
  const entries = book.at(frame);
  return scene.objects.flatMap(({ id, colour }) => {
    const entry = entries.get(id);
    return entry?.area ? [{ mask: bitmaps.get(entry, colour), isHighlighted: id === hovered }] : [];
  });
}
