import { expect, test } from "vitest";
import { separate, UNKNOWN } from "../../src/local/together";
import cases from "./together_cases.json";

// Masks and motion are of the package: scripts/make_together_cases.py.
test.each(cases)("$count objects that meet have the package's masks and motion", (clip) => {
  const area = clip.height * clip.width;
  const each = Array.from({ length: clip.count }, (_, object) => object);
  const masksOf = (text: string) => {
    const logits = Float32Array.from(text, (letter) => (letter.charCodeAt(0) - 64) / 2);
    return each.map((object) => logits.slice(object * area, (object + 1) * area));
  };
  const sharing = each.map((a) => each.map((b) => clip.sharing[a * clip.count + b] === "1"));
  let motions = each.map(() => UNKNOWN);
  for (const { logits, masks } of clip.frames) {
    const found = separate(masksOf(logits), motions, sharing, clip);
    expect(found.map(({ mask }) => mask)).toEqual(masksOf(masks ?? logits));
    motions = found.map(({ motion }) => motion);
  }
  const numbers = motions.flatMap(({ frames, x, y, vx, vy, ...other }) => {
    return [frames, x, y, vx, vy, other.area, other.contact, other.unseen];
  });
  const expected = clip.motion.split(" ").map(Number);
  numbers.forEach((value, index) => expect(value).toBeCloseTo(expected[index]!, 9));
  expect(numbers).toHaveLength(expected.length);
});
