/** The parts of a `multipart/x-savi-stream`: headers and a body of exactly Content-Length bytes, no closing boundary. */

export interface Part {
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Uint8Array<ArrayBuffer>;
}

const BOUNDARY = "--frame";
const CR = 0x0d;
const LF = 0x0a;
const MAX_HEAD = 8192; // bytes from a boundary to the blank line

/** Parses bytes in chunks of any size and returns the complete parts, in time that is linear in the bytes. */
export class PartParser {
  private buffer = new Uint8Array(1 << 16);
  private start = 0;
  private stop = 0;

  /** @throws Error if the bytes are not a valid stream. */
  push(chunk: Uint8Array): Part[] {
    this.reserve(chunk.length);
    this.buffer.set(chunk, this.stop);
    this.stop += chunk.length;
    const parts: Part[] = [];
    for (let part = this.next(); part; part = this.next()) parts.push(part);
    return parts;
  }

  /** Makes room at the end. The buffer is at least twice as large as what it holds, so that bytes move rarely. */
  private reserve(length: number): void {
    if (this.stop + length <= this.buffer.length) return;
    const kept = this.buffer.subarray(this.start, this.stop);
    const needed = 2 * (kept.length + length);
    if (needed > this.buffer.length) this.buffer = new Uint8Array(needed);
    this.buffer.set(kept);
    [this.start, this.stop] = [0, kept.length];
  }

  /** @throws Error if the stream ended in the middle of a part. */
  end(): void {
    const rest = this.buffer.subarray(this.start, this.stop);
    if (rest.some((byte) => byte !== CR && byte !== LF)) throw new Error("the stream of masks ended in mid-part");
  }

  private next(): Part | null {
    while (this.start + 1 < this.stop && this.buffer[this.start] === CR && this.buffer[this.start + 1] === LF) {
      this.start += 2; // blank lines before a boundary
    }
    const bytes = this.buffer.subarray(this.start, this.stop);
    const blank = findBlankLine(bytes.subarray(0, MAX_HEAD));
    if (blank < 0) {
      if (bytes.length > MAX_HEAD) throw new Error("the headers in the stream of masks do not end");
      return null;
    }
    const headers = readHeaders(new TextDecoder().decode(bytes.subarray(0, blank)));
    const length = Number(headers.get("content-length"));
    if (!Number.isInteger(length) || length < 0) throw new Error("a part of the stream of masks has no Content-Length");
    const first = blank + 4;
    if (bytes.length < first + length) return null;
    this.start += first + length;
    return { headers, body: bytes.slice(first, first + length) };
  }
}

function findBlankLine(bytes: Uint8Array): number {
  for (let at = bytes.indexOf(CR); at >= 0; at = bytes.indexOf(CR, at + 1)) {
    if (bytes[at + 1] === LF && bytes[at + 2] === CR && bytes[at + 3] === LF) return at;
  }
  return -1;
}

function readHeaders(head: string): Map<string, string> {
  const [boundary, ...lines] = head.split("\r\n");
  if (boundary !== BOUNDARY)
    throw new Error(`expected a boundary in the stream of masks, got ${JSON.stringify(boundary)}`);
  const headers = new Map<string, string>();
  for (const line of lines) {
    const colon = line.indexOf(": ");
    if (colon < 1) throw new Error(`a header in the stream of masks is broken: ${JSON.stringify(line)}`);
    const name = line.slice(0, colon).toLowerCase();
    headers.set(name, line.slice(colon + 2));
  }
  if (!headers.has("content-length")) throw new Error("a part of the stream of masks has no Content-Length");
  return headers;
}
