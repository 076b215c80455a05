import { expect, test } from "vitest";
import { hasEnding, refuseFile, whyLeftOut } from "../../src/api/upload";
import { isPhoto } from "../../src/api/video";
import { orientationOf } from "../../src/local/photo";
import { maskOf, paintMask } from "../../src/masks/rle";
import { mayBeLabels } from "../../src/photos/dropped";
import { isPhotosProject, openPhotosProject } from "../../src/photos/project";
import { atMost } from "../../src/scene/geometry";

const LIMITS = { maxUploadMB: 1, maxSeconds: 10, formats: [".mp4"], maxSessions: 1, model: "", imageSize: 1 };

test("photographs are told from videos by their endings", () => {
  expect(hasEnding("A.JPG", [".jpg"])).toBe(true);
  expect(hasEnding("jpg", ["jpg"])).toBe(false);
  expect(isPhoto({ path: "uploads/12.webp" })).toBe(true);
  expect(isPhoto({ path: "uploads/12.mp4" })).toBe(false);
  const file = { name: "a.jpg", size: 2 };
  expect(refuseFile(file, { ...LIMITS, photoFormats: [".jpg"] })).toBeNull();
  expect(refuseFile(file, LIMITS)).toContain("not a supported video. Choose");
  expect(refuseFile({ ...file, size: 2 ** 21 }, { ...LIMITS, photoFormats: [".jpg"] })).toContain("2.0 MB");
});

test("EXIF's orientation is read in both byte orders", () => {
  for (const little of [true, false]) {
    const head = new DataView(new ArrayBuffer(60));
    head.setUint32(0, 0xffd8ffe0); // and a segment before it
    head.setUint16(4, 4);
    head.setUint16(8, 0xffe1);
    head.setUint16(10, 40);
    head.setUint32(12, 0x45786966);
    head.setUint16(18, little ? 0x4949 : 0x4d4d);
    head.setUint32(22, 8, little);
    head.setUint16(26, 1, little);
    head.setUint16(28, 0x0112, little);
    head.setUint16(36, 6, little);
    expect(orientationOf(head)).toBe(6);
  }
  expect(orientationOf(new DataView(new ArrayBuffer(0)))).toBe(1);
  expect(orientationOf(new DataView(Uint8Array.of(0xff, 0xd8, 0xff, 0xe1, 0, 90).buffer))).toBe(1);
});

test("a PNG of grey or a palette may be a label image of what is open", async () => {
  const png = (type: number) => {
    const head = new Uint8Array(40);
    head.set([0x89, 0x50, 0x4e, 0x47]);
    head.set([0, 0, 0, 80, 0, 0, 0, 60], 16);
    head[25] = type;
    return new File([head], "a.png");
  };
  const open = { width: 160, height: 120 };
  const found = await Promise.all([0, 2, 3, 6].map((type) => mayBeLabels(png(type), open)));
  expect(found).toEqual([true, false, true, false]);
  expect(await mayBeLabels(png(0), { width: 120, height: 160 })).toBe(false); // of another shape
  expect(await mayBeLabels(png(0), null)).toBe(false); // nothing is open
  expect(await mayBeLabels(new File(["short"], "a.png"), open)).toBe(false);
});

test("each file that is left out has a reason", () => {
  const limits = { ...LIMITS, photoFormats: [".jpg", ".png"] };
  const reasonOf = (name: string, size = 9) => whyLeftOut({ name, size }, limits);
  expect(reasonOf("a.JPG")).toBeNull();
  expect(reasonOf("a.jpg", 0)).toBe("the file is empty");
  expect(reasonOf("a.jpg", 2 ** 21)).toBe("2.0 MB, at most 1 MB can be uploaded");
  expect(reasonOf("a.svg")).toBe(".svg files are not read");
  expect(reasonOf("a.mp4")).toBe("a video is opened alone");
  expect(reasonOf("notes")).toBe("not a photograph");
  expect(reasonOf("a.HEIC")).toContain("sam2fast[images]");
});

test("a mask is painted in a part of its size", () => {
  const [height, width] = [7, 5];
  const pixels = Uint32Array.from({ length: height * width }, (_, place) => ((place * 7) % 3 === 0 ? 1 : 0));
  const mask = maskOf(pixels, { height, width });
  for (const step of [1, 2, 3]) {
    const [rows, columns] = [Math.ceil(height / step), Math.ceil(width / step)];
    const painted = new Uint32Array(rows * columns);
    paintMask(mask, painted, 1, step);
    const expected = Array.from(painted, (_, place) => {
      return pixels[step * Math.floor(place / columns) * width + step * (place % columns)];
    });
    expect([...painted]).toEqual(expected);
  }
});

test("a large photograph is drawn in fewer pixels", () => {
  expect(atMost(100, { width: 8, height: 6 })).toEqual({ width: 8, height: 6 });
  expect(atMost(4800, { width: 800, height: 600 })).toEqual({ width: 80, height: 60 });
});

test("a damaged project of photographs says so", async () => {
  const text = JSON.stringify({ format: "sam2fast photographs", version: 1, photographs: [{ name: "a", work: {} }] });
  expect(isPhotosProject(text)).toBe(true);
  await expect(openPhotosProject(text)).rejects.toThrow("not a project that was saved");
  await expect(openPhotosProject(text.slice(1))).rejects.toThrow("not a project of photographs");
});
