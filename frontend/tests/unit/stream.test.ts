import { describe, expect, test } from "vitest";
import { PartParser } from "../../src/api/stream";

const encoder = new TextEncoder();

function part(body: string): string {
  const length = encoder.encode(body).length;
  return (
    "--frame\r\nContent-Type: application/json; charset=utf-8\r\nFrame-Current: -1\r\nFrame-Total: -1\r\n" +
    `Mask-Type: RLE[]\r\nContent-Length: ${length}\r\n\r\n${body}`
  );
}

function parse(bytes: Uint8Array, chunk: number): string[] {
  const parser = new PartParser();
  const bodies: string[] = [];
  for (let start = 0; start < bytes.length; start += chunk) {
    for (const { body } of parser.push(bytes.subarray(start, start + chunk)))
      bodies.push(new TextDecoder().decode(body));
  }
  parser.end();
  return bodies;
}

const BODIES = ['{"frame_index": 0}', '{"note": "ä\r\n\r\n--frame\r\n"}', "", '{"frame_index": 2}'];

describe("parts", () => {
  const bytes = encoder.encode(BODIES.map(part).join(""));

  test.each([1, 2, 3, 7, 64, 1000])("are complete for chunks of %i bytes", (chunk) => {
    expect(parse(bytes, chunk)).toEqual(BODIES);
  });

  test("may be many and large", () => {
    const bodies = Array.from({ length: 60 }, (_, number) => String(number % 10).repeat(1000 * number));
    const stream = encoder.encode(bodies.map(part).join(""));
    for (const chunk of [1000, 50_000, 300_000]) expect(parse(stream, chunk)).toEqual(bodies);
  });

  test("may have blank lines before their boundary", () => {
    expect(parse(encoder.encode("\r\n" + part("a") + "\r\n\r\n" + part("b") + "\r\n"), 5)).toEqual(["a", "b"]);
  });

  test("are returned as soon as they are complete", () => {
    const parser = new PartParser();
    const whole = encoder.encode(part("one") + part("two"));
    const first = encoder.encode(part("one")).length;
    expect(parser.push(whole.subarray(0, first - 1))).toHaveLength(0);
    const [one] = parser.push(whole.subarray(first - 1, first));
    expect(one?.headers.get("mask-type")).toBe("RLE[]");
    expect(parser.push(whole.subarray(first))).toHaveLength(1);
  });
});

test("a stream that ends in mid-part is an error", () => {
  const whole = encoder.encode(part("one"));
  expect(() => parse(whole.subarray(0, whole.length - 1), 16)).toThrow("mid-part");
  expect(() => parse(encoder.encode("--frame\r\nContent-Le"), 16)).toThrow("mid-part");
});

test.each([
  ["no boundary", "Content-Length: 1\r\n\r\nx", "boundary"],
  ["no length", "--frame\r\nContent-Type: x\r\n\r\nx", "Content-Length"],
  ["a length that is none", "--frame\r\nContent-Length: -4\r\n\r\nx", "Content-Length"],
  ["a header without a colon", "--frame\r\nContent-Length 1\r\n\r\nx", "header"],
  ["headers without an end", "--frame\r\n" + "X: y\r\n".repeat(2000), "do not end"],
])("%s is an error", (_, text, message) => {
  expect(() => parse(encoder.encode(text), 4096)).toThrow(message);
});
