import { expect, test } from "vitest";
import {
  BACKGROUND_EFFECTS,
  DEFAULT_LOOK,
  OBJECT_EFFECTS,
  isLook,
  isSameLook,
  nextChoice,
  surprise,
} from "../../src/effects/look";

test("a click on the selected effect shows its next variant, on another one its first", () => {
  const overlay = DEFAULT_LOOK.objects;
  const second = nextChoice(OBJECT_EFFECTS, overlay, "overlay");
  expect(second).toEqual({ effect: "overlay", variant: 1 });
  expect(nextChoice(OBJECT_EFFECTS, second, "blur")).toEqual({ effect: "blur", variant: 0 });
  expect(nextChoice(OBJECT_EFFECTS, { effect: "overlay", variant: 7 }, "overlay").variant).toBe(0);
});

test("surprises come one after the other, and are all different", () => {
  const looks = [surprise(DEFAULT_LOOK)];
  while (looks.length < 9) looks.push(surprise(looks.at(-1)!));
  expect(new Set(looks.map((look) => JSON.stringify(look))).size).toBe(9);
  expect(surprise(looks.at(-1)!)).toEqual(looks[0]);
  for (const { objects, background } of looks) {
    expect(objects.variant).toBeLessThan(OBJECT_EFFECTS[objects.effect].variants);
    expect(background.variant).toBeLessThan(BACKGROUND_EFFECTS[background.effect].variants);
  }
});

test("the text's words are kept with a look, and are no other look", () => {
  const typed = { ...DEFAULT_LOOK, words: "one two" };
  expect(isSameLook(typed, DEFAULT_LOOK)).toBe(true);
  expect(surprise(typed).words).toBe("one two");
  expect([isLook(typed), isLook({ ...typed, words: "x".repeat(201) })]).toEqual([true, false]);
  expect(isLook({ ...typed, words: 7 as unknown as string })).toBe(false);
});

test("the background's colour and image are kept with a look", () => {
  const chosen = { ...DEFAULT_LOOK, colour: "#12ab34", image: "data:image/jpeg;base64,AAAA" };
  expect([isLook(chosen), surprise(chosen).image]).toEqual([true, chosen.image]);
  for (const wrong of [{ colour: "red" }, { colour: 7 }, { image: "https://example.org/a.png" }, { image: null }]) {
    expect(isLook({ ...chosen, ...wrong } as typeof chosen)).toBe(false);
  }
});
