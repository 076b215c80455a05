import { VideoSample } from "mediabunny";

/**
 * A drawn frame as video editors expect it, in BT.709 of limited range: browsers encode canvases in full range, which
 * many programs misread. Transparent parts become black.
 *
 * @param context of a canvas with even width and height
 */
export function limitedRange(
  context: CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D,
  { timestamp, duration }: { timestamp: number; duration: number },
): VideoSample {
  const { width, height } = context.canvas;
  const { data } = context.getImageData(0, 0, width, height);
  const luma = width * height;
  const planes = new Uint8ClampedArray(1.5 * luma);
  let chroma = luma;
  for (let y = 0; y < height; y += 2) {
    for (let x = 0; x < width; x += 2) {
      let [red, green, blue] = [0, 0, 0];
      for (let corner = 0; corner < 4; corner += 1) {
        const pixel = (y + (corner >> 1)) * width + x + (corner & 1);
        const opacity = data[4 * pixel + 3]! / 255;
        const [r, g, b] = [opacity * data[4 * pixel]!, opacity * data[4 * pixel + 1]!, opacity * data[4 * pixel + 2]!];
        planes[pixel] = 16 + 0.182586 * r + 0.614231 * g + 0.062007 * b;
        red += r;
        green += g;
        blue += b;
      }
      planes[chroma] = 128 + (-0.100644 * red - 0.338572 * green + 0.439216 * blue) / 4;
      planes[chroma + luma / 4] = 128 + (0.439216 * red - 0.398942 * green - 0.040274 * blue) / 4;
      chroma += 1;
    }
  }
  return new VideoSample(planes, {
    ...{ format: "I420", codedWidth: width, codedHeight: height, timestamp, duration },
    colorSpace: { primaries: "bt709", transfer: "bt709", matrix: "bt709", fullRange: false },
  });
}
