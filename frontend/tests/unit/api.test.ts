import { expect, test } from "vitest";
import { asApiError, responseError, serverError } from "../../src/api/errors";
import { refuseFile } from "../../src/api/upload";
import { readClip } from "../../src/api/video";

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
  expect(serverError("the server failed; its log says more", "INTERNAL").failure).toBe("failed"); // not the file's fault
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
