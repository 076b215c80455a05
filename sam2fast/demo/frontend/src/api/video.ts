import type { FrameMasksFragment, VideoPartsFragment } from "./generated";
import type { FrameMasks } from "../masks/book";

export interface Clip {
  /** Under the server's data folder; also the address of the file. */
  readonly path: string;
  readonly name: string;
  readonly url: string;
  readonly poster: string | null;
  readonly width: number;
  readonly height: number;
}

/**
 * A video of the API. Addresses are made from its path: the server's own `url` names a host, which is another one for
 * whoever comes through a proxy or from another machine.
 */
export function readClip(video: VideoPartsFragment): Clip {
  const file = video.path.split("/").pop() ?? video.path;
  const isUpload = video.path.startsWith("uploads/");
  const stem = file.replace(/\.[^.]+$/, "").replace(/^\d+_/, "");
  return {
    path: video.path,
    name: isUpload ? "Your video" : stem.replace(/[_-]+/g, " ").replace(/^./, (first) => first.toUpperCase()),
    url: asAddress(video.path),
    poster: video.posterPath ? asAddress(video.posterPath) : null,
    width: video.width,
    height: video.height,
  };
}

function asAddress(path: string): string {
  return "/" + path.split("/").map(encodeURIComponent).join("/");
}

export function readFrameMasks(answer: FrameMasksFragment): FrameMasks {
  const masks = answer.rleMaskList.map(({ objectId, rleMask: { size, counts } }) => {
    return [objectId, { height: size[0]!, width: size[1]!, counts }] as const;
  });
  return { frame: answer.frameIndex, masks: new Map(masks) };
}
