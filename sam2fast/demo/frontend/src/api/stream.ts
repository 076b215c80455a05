/** The parts of a `multipart/x-savi-stream`: headers and a body of exactly Content-Length bytes, no closing boundary. */

export interface Part {
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Uint8Array<ArrayBuffer>;
}

const BOUNDARY = "--frame";
const CR = 0x0d;
const LF = 0x0a;
const MAX_HEAD = 8192; // bytes from a boundary to the blank line

/** Parses bytes in chunks of any size and returns the complete parts. */
export class PartParser {
  private bytes = new Uint8Array(0);

  /** @throws Error if the bytes are not a valid stream. */
  push(chunk: Uint8Array): Part[] {
    const joined = new Uint8Array(this.bytes.length + chunk.length);
    joined.set(this.bytes);
    joined.set(chunk, this.bytes.length);
    this.bytes = joined;
    const parts: Part[] = [];
    for (let part = this.next(); part; part = this.next()) parts.push(part);
    return parts;
  }

  /** @throws Error if the stream ended in the middle of a part. */
  end(): void {
    if (this.bytes.some((byte) => byte !== CR && byte !== LF)) throw new Error("the stream of masks ended in mid-part");
  }

  private next(): Part | null {
    let start = 0;
    while (this.bytes[start] === CR && this.bytes[start + 1] === LF) start += 2; // blank lines before a boundary
    const blank = findBlankLine(this.bytes, start);
    if (blank < 0) {
      if (this.bytes.length - start > MAX_HEAD) throw new Error("the headers in the stream of masks do not end");
      return null;
    }
    const headers = readHeaders(new TextDecoder().decode(this.bytes.subarray(start, blank)));
    const length = Number(headers.get("content-length"));
    if (!Number.isInteger(length) || length < 0) throw new Error("a part of the stream of masks has no Content-Length");
    const first = blank + 4;
    if (this.bytes.length < first + length) return null;
    const body = this.bytes.slice(first, first + length);
    this.bytes = this.bytes.slice(first + length);
    return { headers, body };
  }
}

function findBlankLine(bytes: Uint8Array, start: number): number {
  for (let at = bytes.indexOf(CR, start); at >= 0; at = bytes.indexOf(CR, at + 1)) {
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
