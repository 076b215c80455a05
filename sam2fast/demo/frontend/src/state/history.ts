/** Undo and redo of any value that is replaced rather than changed. */
export interface History<T> {
  readonly past: readonly T[];
  readonly future: readonly T[];
}

const MOST = 200;

export const NO_HISTORY: History<never> = { past: [], future: [] };

export function remember<T>(history: History<T>, current: T): History<T> {
  return { past: [...history.past, current].slice(-MOST), future: [] };
}

/** The value before `current` and the history that goes with it; null if there is none. */
export function undo<T>(history: History<T>, current: T): { value: T; history: History<T> } | null {
  const value = history.past.at(-1);
  if (value === undefined) return null;
  return { value, history: { past: history.past.slice(0, -1), future: [current, ...history.future] } };
}

/**
 * The history once the server has refused the current value and everything is as at the nearest step that it accepts.
 *
 * @param isAccepted whether a step is as the server has it
 */
export function withoutRefused<T>({ past, future }: History<T>, isAccepted: (step: T) => boolean): History<T> {
  const undone = future.findIndex(isAccepted);
  if (undone >= 0) return { past, future: future.slice(undone + 1) }; // undo has led to what is refused
  const kept = past.map(isAccepted).lastIndexOf(true);
  return { past: past.slice(0, kept >= 0 ? kept : -1), future };
}

export function redo<T>(history: History<T>, current: T): { value: T; history: History<T> } | null {
  const [value, ...future] = history.future;
  if (value === undefined) return null;
  return { value, history: { past: [...history.past, current], future } };
}
