export type Shown = HTMLVideoElement | HTMLImageElement;

/** The video or the photograph on the stage. */
export function shownElement(): Shown | null {
  return document.querySelector<Shown>(".frame video, .frame img");
}

/** Whether it shows the current frame, rather than none or another one. */
export function isSettled(shown: Shown): boolean {
  if (shown instanceof HTMLImageElement) return shown.complete && shown.naturalWidth > 0;
  return !shown.seeking && shown.readyState >= shown.HAVE_CURRENT_DATA;
}

export function sizeOf(shown: Shown): { width: number; height: number } {
  if (shown instanceof HTMLImageElement) return { width: shown.naturalWidth, height: shown.naturalHeight };
  return { width: shown.videoWidth, height: shown.videoHeight };
}
