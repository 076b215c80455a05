import type { Mask } from "../masks/rle";
import { decodeCounts } from "../masks/rle";
import type { Size } from "./arrays";
import { LARGEST, convertVideo, type Task } from "./convert";
import type { PageMasks } from "./pageMasks";
import type { Source } from "./files";
import { encodeLogits } from "./runLengths";

/** The files that uploads were made of, where these are larger: exports have their size. */

let converted: { path: string; video: Blob } | null = null; // of the last export

/** The same frames as those of an upload, at its source's size. @param path of the upload */
export async function sourceVideo(path: string, { file, part }: Source, task: Task): Promise<Blob> {
  if (converted?.path !== path) {
    const { video } = await convertVideo(file, part, LARGEST, task);
    converted = { path, video };
  }
  return converted.video;
}

/**
 * Masks at another size: upsampled from the logits that they were made of, or else resized.
 *
 * @param logitsOf the logits of a frame's objects, of the size `from`
 */
export function resizeMasks(
  { frames, ...page }: PageMasks,
  logitsOf: (frame: number) => ReadonlyMap<number, Float32Array>,
  from: Size,
  size: Size,
): PageMasks {
  const resized = frames.map(({ frame, masks }) => {
    const logits = logitsOf(frame);
    return {
      frame,
      masks: masks.map(({ object, size: [height, width], counts }) => {
        const found = logits.get(object);
        const isMade = found && encodeLogits(found, from, { height, width }).counts === counts;
        const mask = isMade ? encodeLogits(found, from, size) : resizeMask({ height, width, counts }, size);
        return { object, size: [mask.height, mask.width] as const, counts: mask.counts };
      }),
    };
  });
  return { ...page, frames: resized };
}

function resizeMask(mask: Mask, size: Size): Mask {
  const signs = new Float32Array(mask.height * mask.width).fill(-1);
  let [start, isInside] = [0, false];
  for (const run of decodeCounts(mask.counts)) {
    for (let place = start; isInside && place < start + run; place += 1) {
      const x = Math.floor(place / mask.height);
      signs[(place - x * mask.height) * mask.width + x] = 1;
    }
    start += run;
    isInside = !isInside;
  }
  return encodeLogits(signs, mask, size);
}
