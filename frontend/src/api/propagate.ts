import type { FrameMasks, TrackedMask } from "../masks/masks";
import { ApiError, responseError, sendingError } from "./errors";
import { PartParser } from "./stream";
import { send } from "./transport";

/** A request to the server. */
export interface Track {
  readonly start: number;
  readonly direction: "both" | "forward" | "backward";
  /** The last frame in the direction; null for the video's end. */
  readonly end: number | null;
  /** Ids of objects. */
  readonly objects: readonly number[];
  /** Number of different frames. */
  readonly total: number;
}

interface Body {
  frame_index: number;
  /** The official server sends no scores. */
  results: {
    object_id: number;
    mask: { size: [number, number]; counts: string };
    iou?: number;
    object_score?: number;
  }[];
}

/**
 * Tracks and yields the masks of each frame. In both directions it goes from the start frame to the video's end, then
 * back to the beginning; the start frame comes twice unless it is the first.
 *
 * @throws ApiError, also when the connection is lost
 */
export async function* propagate(
  sessionId: string,
  { start, direction, end, objects }: Track,
  signal: AbortSignal,
): AsyncGenerator<FrameMasks, void> {
  const response = await send("/propagate_in_video", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({
      session_id: sessionId,
      start_frame_index: start,
      direction,
      end_frame_index: end,
      object_ids: objects,
    }),
    signal,
  }).catch((error: unknown) => {
    throw signal.aborted ? error : sendingError(error);
  });
  if (!response.ok || !response.body) throw await responseError(response);
  const kind = response.headers.get("Content-Type") ?? "";
  if (!kind.startsWith("multipart/x-savi-stream")) throw new ApiError("refused", `expected masks, got ${kind}`);

  const reader = response.body.getReader();
  const parser = new PartParser();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        throw signal.aborted ? error : sendingError(error);
      });
      if (done) break;
      for (const part of parser.push(value)) yield readBody(JSON.parse(new TextDecoder().decode(part.body)) as Body);
    }
    parser.end();
  } finally {
    // Lets the server stop if the caller stops early.
    await reader.cancel().catch(() => undefined);
  }
}

function readBody(body: Body): FrameMasks {
  const masks = new Map<number, TrackedMask>();
  for (const { object_id, mask, iou, object_score: presence } of body.results) {
    const scores = iou !== undefined && presence !== undefined && { iou, presence };
    masks.set(object_id, {
      height: mask.size[0],
      width: mask.size[1],
      counts: mask.counts,
      ...(scores && { scores }),
    });
  }
  return { frame: body.frame_index, masks };
}
