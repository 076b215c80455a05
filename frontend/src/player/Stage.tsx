import { useEffect, useRef, useState, type RefObject } from "react";
import { isPhoto } from "../api/video";
import type { Look } from "../effects/look";
import { EverythingLayer } from "../precision/EverythingLayer";
import { SketchLayer } from "../precision/SketchLayer";
import { atMost, fitInside, type Size } from "../scene/geometry";
import { findObject } from "../scene/scene";
import { setState, useStore } from "../state/store";
import { ClickHint } from "./ClickHint";
import { Loupe } from "./Loupe";
import { Marks } from "./Marks";
import { Ripple } from "./Ripple";
import { StageMessage } from "./StageMessage";
import { useCrosshair } from "./useCrosshair";
import { usePhoto } from "./usePhoto";
import { usePlayer } from "./usePlayer";
import { usePointer } from "./usePointer";
import { useZoomGestures } from "./useZoomGestures";
import { placed, setRoom, useZoom } from "./zoom";

const PHOTO_PIXELS = 3e6; // of the canvas on which a photograph is drawn; masks and files have its full size

/** The video or photograph, under a canvas on which each frame is drawn with its masks. */
export function Stage() {
  const clip = useStore((state) => state.clip);
  const session = useStore((state) => state.session);
  const tool = useStore((state) => state.tool);
  const pending = useStore((state) => state.pending);
  const hasHoles = useStore((state) => isErasing(state.look));
  const hovered = useStore((state) => findObject(state.scene, state.hovered ?? -1));

  const room = useRef<HTMLDivElement>(null);
  const surface = useRef<HTMLDivElement>(null);
  const video = useRef<HTMLVideoElement>(null);
  const photo = useRef<HTMLImageElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const place = usePlacedFrame(room, clip);
  const { draft, cancel, handlers } = usePointer(surface);
  const crosshair = useCrosshair();
  // Where the frame leaves room: what lies over the frame begins at its edges.
  const edges = { "--beside": `${Math.max(0, place?.left ?? 0)}px`, "--below": `${Math.max(0, place?.top ?? 0)}px` };
  const drawn = clip && isPhoto(clip) ? atMost(PHOTO_PIXELS, clip) : clip;
  usePlayer(video, canvas);
  usePhoto(photo, canvas);
  useZoomGestures(room, surface, cancel);

  return (
    <div className="stage" ref={room} style={edges as React.CSSProperties}>
      {clip && drawn && (
        // No element type fits clicks at positions; useCrosshair gives the same actions by keyboard.
        // eslint-disable-next-line jsx-a11y/no-noninteractive-element-interactions
        <div
          ref={surface}
          className={`frame ${hasHoles ? "erasing" : ""} ${pending ? "pending" : ""}`}
          data-tool={tool}
          style={place ?? { visibility: "hidden" }}
          role="application"
          aria-label={`${clip.name}. Click to add a point; with the keyboard, Shift and arrows move, Enter adds.`}
          // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
          tabIndex={0}
          onKeyDown={crosshair.onKeyDown}
          onBlur={crosshair.onBlur}
          {...handlers}
        >
          {isPhoto(clip) ? (
            <img
              key={clip.url}
              ref={photo}
              src={clip.url}
              alt=""
              draggable={false}
              onError={() => setState({ phase: "failed", problem: "The photograph cannot be loaded." })}
            />
          ) : (
            <video
              key={clip.url}
              ref={video}
              src={clip.url}
              muted
              playsInline
              loop
              preload="auto"
              tabIndex={-1}
              onError={() => setState({ phase: "failed", problem: "The video cannot be loaded." })}
            />
          )}
          <canvas key={session?.id} ref={canvas} width={drawn.width} height={drawn.height} />
          <SketchLayer width={drawn.width} height={drawn.height} />
          <EverythingLayer />
          <Ripple />
          <Marks draft={draft ?? crosshair.draft} />
          {crosshair.spot && (
            <div
              className="crosshair"
              style={{ left: `${100 * crosshair.spot.x}%`, top: `${100 * crosshair.spot.y}%` }}
            />
          )}
        </div>
      )}
      {hovered && !draft && (
        <div className="hover-name" style={{ "--colour": hovered.colour } as React.CSSProperties}>
          {hovered.name}
        </div>
      )}
      <Loupe />
      <ClickHint />
      <StageMessage />
    </div>
  );
}

/** Whether parts of the frame are transparent. */
function isErasing({ objects, background }: Look): boolean {
  return [objects, background].some(({ effect, variant }) => effect === "erase" && variant === 0);
}

/** Position and size of the frame in its room, as zoomed, updated on resize; null before the first layout. */
function usePlacedFrame(element: RefObject<HTMLElement | null>, content: Size | null) {
  const view = useZoom((state) => state.view);
  const [room, setSize] = useState<Size | null>(null);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => {
      const { width, height } = entry!.contentRect;
      setSize({ width, height });
    });
    observer.observe(element.current!);
    return () => observer.disconnect();
  }, [element]);
  const frame = room && content ? fitInside(content, room) : null;
  useEffect(() => {
    if (frame && room) setRoom(frame, room);
  }, [frame?.width, frame?.height, room]); // eslint-disable-line react-hooks/exhaustive-deps
  return frame && room ? { position: "absolute" as const, ...placed(view, frame, room) } : null;
}
