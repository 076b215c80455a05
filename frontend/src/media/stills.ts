import { timeOf } from "./frameTimes";

/** Reads single frames of a video beside the player, one after the other. */

let reader: { url: string; video: HTMLVideoElement; queue: Promise<void> } | null = null;

function readerOf(url: string) {
  if (reader?.url === url) return reader;
  if (reader) unload(reader.video);
  const video = document.createElement("video");
  video.muted = true;
  video.preload = "auto";
  video.src = url;
  reader = { url, video, queue: settled(video, "loadeddata") };
  return reader;
}

/** Frees the memory of a video that is not on the page. */
export function unload(video: HTMLVideoElement): void {
  video.removeAttribute("src");
  video.load();
}

/**
 * Calls `draw` with a video that shows the frame. Requests are answered in their order.
 *
 * @param isWanted asked when it is the request's turn; nothing is drawn if it returns false
 */
export function readStill(
  url: string,
  frame: number,
  fps: number,
  isWanted: () => boolean,
  draw: (video: HTMLVideoElement) => void,
): void {
  const { video, queue } = readerOf(url);
  const read = async () => {
    if (!isWanted() || video.error || reader?.video !== video) return;
    const time = timeOf(frame, fps);
    if (Math.abs(video.currentTime - time) > 1e-4) {
      const seeked = settled(video, "seeked");
      video.currentTime = time;
      await seeked;
    }
    if (isWanted() && !video.error && video.videoWidth > 0) draw(video);
  };
  reader!.queue = queue.then(read);
}

let photo: { url: string; image: HTMLImageElement } | null = null;

/** As `readStill` for a photograph. */
export async function readPhoto(
  url: string,
  isWanted: () => boolean,
  draw: (image: HTMLImageElement) => void,
): Promise<void> {
  if (photo?.url !== url) {
    photo = { url, image: new Image() };
    photo.image.src = url;
  }
  const { image } = photo;
  await image.decode().catch(() => undefined);
  if (isWanted() && image.naturalWidth > 0) draw(image);
}

/** Waits for an event, or an error; without a decoder neither may come. */
function settled(video: HTMLVideoElement, event: "loadeddata" | "seeked"): Promise<void> {
  const LONGEST_MS = 4000;
  const listening = new AbortController();
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer);
      listening.abort();
      resolve();
    };
    const timer = setTimeout(finish, LONGEST_MS);
    video.addEventListener(event, finish, listening);
    video.addEventListener("error", finish, listening);
  });
}
