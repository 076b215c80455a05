import type { Rectangle, Size } from "../scene/geometry";

const GAP = 12; // from the target
const EDGE = 8; // from the window's edges

/**
 * Where a mark is beside its target: of the places below, right, left and above, the first that covers nothing, or else
 * the one that covers least.
 *
 * @param avoid what should not be covered either; covering the target is worse
 */
export function placeBeside(
  target: Rectangle,
  size: Size,
  room: Size,
  avoid: Rectangle,
): { left: number; top: number } {
  const { left, top, width, height } = target;
  const [middle, first] = [left + width / 2 - size.width / 2, top];
  const wanted = [
    { left: middle, top: top + height + GAP },
    { left: left + width + GAP, top: first },
    { left: left - size.width - GAP, top: first },
    { left: middle, top: top - size.height - GAP },
  ];
  const clamp = (value: number, length: number, whole: number) =>
    Math.max(EDGE, Math.min(whole - length - EDGE, value));
  const places = wanted.map(({ left, top }) => {
    const place = { left: clamp(left, size.width, room.width), top: clamp(top, size.height, room.height) };
    const covered = { ...place, ...size };
    return { place, cost: 10 * shared(covered, target) + shared(covered, avoid) };
  });
  return places.reduce((best, next) => (next.cost < best.cost ? next : best)).place;
}

/** The area that two rectangles have in common. */
function shared(a: Rectangle, b: Rectangle): number {
  const across = Math.min(a.left + a.width, b.left + b.width) - Math.max(a.left, b.left);
  const down = Math.min(a.top + a.height, b.top + b.height) - Math.max(a.top, b.top);
  return Math.max(0, across) * Math.max(0, down);
}
