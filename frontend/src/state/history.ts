/** Undo and redo of immutable values. */
export interface History<T> {
  readonly past: readonly T[];
  readonly future: readonly T[];
}

const MAX_STEPS = 200;

export const NO_HISTORY: History<never> = { past: [], future: [] };

export function remember<T>(history: History<T>, current: T): History<T> {
  return { past: [...history.past, current].slice(-MAX_STEPS), future: [] };
}

/** The value before `current` and the remaining history; null if there is none. */
export function undo<T>(history: History<T>, current: T): { value: T; history: History<T> } | null {
  const value = history.past.at(-1);
  if (value === undefined) return null;
  return { value, history: { past: history.past.slice(0, -1), future: [current, ...history.future] } };
}

/**
 * The history after the server has refused the current value and the nearest accepted step was restored.
 *
 * @param isAccepted whether the server has this step
 */
export function withoutRefused<T>({ past, future }: History<T>, isAccepted: (step: T) => boolean): History<T> {
  const undone = future.findIndex(isAccepted);
  if (undone >= 0) return { past, future: future.slice(undone + 1) }; // an undo was refused
  const accepted = past.map(isAccepted).lastIndexOf(true);
  return { past: past.slice(0, accepted >= 0 ? accepted : -1), future };
}

export function redo<T>(history: History<T>, current: T): { value: T; history: History<T> } | null {
  const [value, ...future] = history.future;
  if (value === undefined) return null;
  return { value, history: { past: [...history.past, current], future } };
}
