import type { FrameMasks } from "../masks/masks";
import type { FrameMasksFragment, VideoPartsFragment } from "./generated";
import { isInBrowser, localAddress } from "./transport";

export interface Clip {
  /** Under the server's data folder; also the address of the file. */
  readonly path: string;
  readonly name: string;
  readonly url: string;
  readonly poster: string | null;
  readonly width: number;
  readonly height: number;
}

/** Whether a clip is a photograph: a session on it has one frame. */
export function isPhoto({ path }: Pick<Clip, "path">): boolean {
  return /\.(jpg|png|webp)$/.test(path);
}

/**
 * A video of the API. Its URLs are built from its path: the `url` of the API names the server's host, which differs
 * behind a proxy and from other machines.
 */
export function readClip(video: VideoPartsFragment): Clip {
  const file = video.path.split("/").pop()!;
  const isUpload = video.path.startsWith("uploads/");
  const stem = file.replace(/\.[^.]+$/, "").replace(/^\d+_/, "");
  return {
    path: video.path,
    name: isUpload
      ? isPhoto(video)
        ? "Your photograph"
        : "Your video"
      : stem.replace(/[_-]+/g, " ").replace(/^./, (first) => first.toUpperCase()),
    url: asUrl(video.path),
    poster: video.posterPath ? asUrl(video.posterPath) : null,
    width: video.width,
    height: video.height,
  };
}

/** The clip with an address where its video can be played. */
export async function located(clip: Clip): Promise<Clip> {
  const url = await localAddress(clip.path);
  return url === null ? clip : { ...clip, url };
}

/** The address of a file of the server, or beside a page without one. */
export function asUrl(path: string): string {
  return (isInBrowser ? "" : "/") + path.split("/").map(encodeURIComponent).join("/");
}

export function readFrameMasks(answer: FrameMasksFragment): FrameMasks {
  const masks = answer.rleMaskList.map(({ objectId, rleMask: { size, counts } }) => {
    return [objectId, { height: size[0]!, width: size[1]!, counts }] as const;
  });
  return { frame: answer.frameIndex, masks: new Map(masks) };
}
