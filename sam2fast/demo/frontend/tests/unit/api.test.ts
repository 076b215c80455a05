import { expect, test } from "vitest";
import { asApiError, responseError, serverError } from "../../src/api/errors";
import { refuseFile } from "../../src/api/upload";
import { readClip } from "../../src/api/video";
import { MaskStore } from "../../src/masks/maskStore";

const LIMITS = {
  maxUploadMB: 70,
  maxSeconds: 10,
  formats: [".mp4", "mov"],
  maxSessions: 4,
  model: "nano",
  imageSize: 256,
};

test("files that the server would not take are refused", () => {
  const file = (name: string, size = 1000) => ({ name, size, type: "" });
  expect(refuseFile(file("a.MP4"), LIMITS)).toBeNull();
  expect(refuseFile(file("a.mov", 70 * 1024 ** 2), LIMITS)).toBeNull();
  expect(refuseFile(file("a.txt"), LIMITS)).toContain(".mp4, .mov");
  expect(refuseFile(file("mp4"), { ...LIMITS, formats: ["mkv"] })).toContain(".mkv");
  expect(refuseFile(file("a.mp4", 0), LIMITS)).toContain("empty");
  expect(refuseFile(file("a.mp4", 70 * 1024 ** 2 + 1), LIMITS)).toContain("at most 70 MB");
});

test("errors are told apart, with and without codes", async () => {
  expect(serverError("Cannot find session 'x': it might have expired").failure).toBe("session");
  expect(serverError("gone", "NO_SESSION").failure).toBe("session");
  expect(serverError("16 sessions are open", "BUSY").failure).toBe("busy");
  expect(serverError("points: expected 2 numbers", "BAD_INPUT").failure).toBe("refused");
  expect(serverError("points: too many").message).toBe("Points: too many.");
  expect(asApiError(new TypeError("Failed to fetch")).failure).toBe("network");
  const body = JSON.stringify({ error: { code: "NO_SESSION", message: "no such session" } });
  expect((await responseError(new Response(body, { status: 404 }))).failure).toBe("session");
  expect((await responseError(new Response("<html>", { status: 500 }))).message).toContain("500");
  expect((await responseError(new Response("", { status: 502 }))).failure).toBe("network");
});

test("a video's address is its path on this server", () => {
  const video = {
    path: "gallery/02_my clip#1.mp4",
    posterPath: null,
    width: 4,
    height: 2,
    url: "http://x/y",
    posterUrl: "",
  };
  const clip = readClip(video);
  expect(clip).toMatchObject({ url: "/gallery/02_my%20clip%231.mp4", name: "My clip#1", poster: null });
  expect(readClip({ ...video, path: "uploads/ab12.mp4" }).name).toBe("Your video");
});

test("the maskStore knows where an object is seen", () => {
  const maskStore = new MaskStore();
  const full = { height: 2, width: 2, counts: "04" };
  const empty = { height: 2, width: 2, counts: "4" };
  maskStore.setTracked({ frame: 1, masks: new Map([[1, full], [2, empty]]) }); // prettier-ignore
  maskStore.setTracked({ frame: 3, masks: new Map([[1, empty]]) });
  expect([...maskStore.visibility(1, 4)]).toEqual([-1, 1, -1, 0]);
  expect([...maskStore.visibility(2, 4)]).toEqual([-1, 0, -1, -1]);
  maskStore.set({ frame: 1, masks: new Map([[2, full]]) }); // an answer has every object of the frame
  expect([...maskStore.visibility(1, 4)]).toEqual([-1, -1, -1, 0]);
  maskStore.removeObject(1);
  expect(maskStore.size).toBe(1);
});

test("an object is hidden only where tracking has looked for it", () => {
  const maskStore = new MaskStore();
  const full = { height: 2, width: 2, counts: "04" };
  const empty = { height: 2, width: 2, counts: "4" };
  maskStore.set({ frame: 0, masks: new Map([[1, full], [2, empty]]) }); // prettier-ignore
  expect([...maskStore.visibility(2, 2)]).toEqual([-1, -1]);
  maskStore.set({ frame: 0, masks: new Map([[1, empty]]) }); // its only click is taken back
  expect([...maskStore.visibility(1, 2)]).toEqual([-1, -1]);
  expect(maskStore.size).toBe(0);

  maskStore.setTracked({ frame: 1, masks: new Map([[1, full]]) });
  maskStore.set({ frame: 1, masks: new Map([[1, empty], [2, empty]]) }); // prettier-ignore
  expect([...maskStore.visibility(1, 2)]).toEqual([-1, 0]); // a correction says that it is not there
  expect([...maskStore.visibility(2, 2)]).toEqual([-1, -1]); // it came after the track
});
