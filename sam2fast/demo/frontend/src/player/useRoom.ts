import { useEffect, useState, type RefObject } from "react";
import { fitInside, type Size } from "./geometry";

/** The size of a picture that fills an element, kept up as the element changes; null before it is laid out. */
export function useRoom(element: RefObject<HTMLElement | null>, picture: Size | null): Size | null {
  const [room, setRoom] = useState<Size | null>(null);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => {
      const { width, height } = entry!.contentRect;
      setRoom({ width, height });
    });
    observer.observe(element.current!);
    return () => observer.disconnect();
  }, [element]);
  return room && picture ? fitInside(picture, room) : null;
}
