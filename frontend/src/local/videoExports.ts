import { alphaOf } from "../masks/alpha";
import { paintMask } from "../masks/rle";
import { changeVideo, type ExportTask } from "./convert";
import type { PageMasks } from "./pageMasks";

/** Videos of the objects, as `sam2fast/demo/server/video_exports.py` makes them. */

type Colour = readonly [red: number, green: number, blue: number];
const [GREEN, WHITE, BLACK]: Colour[] = [
  [0x00, 0xb1, 0x40],
  [255, 255, 255],
  [0, 0, 0],
];

const FORMATS = {
  green_mp4: { isTransparent: false, hasSound: true, inside: null, outside: GREEN! },
  matte_mp4: { isTransparent: false, hasSound: false, inside: WHITE!, outside: BLACK! },
  transparent_webm: { isTransparent: true, hasSound: true, inside: null, outside: null },
} as const;

export function isVideoFormat(format: string): format is keyof typeof FORMATS {
  return format in FORMATS;
}

/** @param file the video, of the size of the masks, or a pixel larger */
export function exportVideo(
  format: keyof typeof FORMATS,
  { frames }: PageMasks,
  { fps, height, width }: { fps: number; height: number; width: number },
  file: Blob,
  task: ExportTask,
): Promise<Blob> {
  const { isTransparent, hasSound, inside, outside } = FORMATS[format];
  const byFrame = new Map(frames.map(({ frame, masks }) => [frame, masks]));
  const found = new Uint32Array(height * width);
  return changeVideo(
    file,
    isTransparent,
    hasSound,
    (context, time) => {
      found.fill(0);
      for (const { counts } of byFrame.get(Math.round(time * fps)) ?? []) {
        paintMask({ height, width, counts }, found, 1);
      }
      const alpha = alphaOf(found, { height, width }, task.feather);
      const { canvas } = context;
      const image = context.getImageData(0, 0, canvas.width, canvas.height);
      for (let y = 0; y < canvas.height; y += 1) {
        for (let x = 0; x < canvas.width; x += 1) {
          const at = 4 * (y * canvas.width + x);
          const opacity = alpha[y * width + x] ?? 0;
          if (!outside) image.data[at + 3] = opacity;
          else {
            for (let part = 0; part < 3; part += 1) {
              const colour = inside ? inside[part]! : image.data[at + part]!;
              image.data[at + part] = (colour * opacity + outside[part]! * (255 - opacity)) / 255;
            }
          }
        }
      }
      context.putImageData(image, 0, 0);
    },
    task,
  );
}
