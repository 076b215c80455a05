"""How much a session may remember, whatever is clicked in it."""

from dataclasses import dataclass

from sam2fast.demo.server.errors import TooManyError
from sam2fast.demo.server.settings import MEBIBYTE
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.selection import MemoryRules
from sam2fast.tracking.state import VideoState

MOST_OBJECTS = 32
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Budget:
    """What one session's memory has room for.

    Attributes:
        results: how many results of an object on a frame a session may keep.
        reach: how many frames back a tracked frame may look, so that fewer cannot be kept.
    """

    results: int
    reach: int

    @classmethod
    def of(cls, predictor: SAM2VideoPredictor, megabytes: int) -> "Budget":
        """What fits: a result is a memory, a low-resolution mask and a pointer, in fp32 at most."""
        side = predictor.sam_image_embedding_size
        values = predictor.mem_dim * side**2 + (4 * side) ** 2 + predictor.hidden_dim
        return cls(megabytes * MEBIBYTE // (FLOAT * values), MemoryRules.of(predictor).reach)

    @property
    def objects(self) -> int:
        """How many a session may have."""
        return max(1, min(MOST_OBJECTS, self.results // (2 * self.reach)))

    def check_room(self, state: VideoState, frame: int, object_id: int) -> None:
        """Whether an object may be prompted on a frame.

        Raises:
            TooManyError: it would be one object too many, or one frame too many that is kept for good.
        """
        if object_id not in state.objects and len(state.objects) >= self.objects:
            raise TooManyError(f"a session may have {self.objects} objects; remove one first")
        prompted = _prompted(state) | {(object_id, frame)}
        if len(prompted) > self.results // 2:
            raise TooManyError(
                f"a session may have {self.results // 2} prompted frames of its objects; take some points back first"
            )

    def share(self, state: VideoState) -> None:
        """Lets each object keep as many tracked frames as there is room for, the newest first."""
        room = (self.results - len(_prompted(state))) // max(1, len(state.objects))
        state.max_history = max(self.reach, min(room, state.num_frames))


def _prompted(state: VideoState) -> set[tuple[int, int]]:
    """Objects and frames whose results stay."""
    return {
        (object_id, frame)
        for object_id, tracked in state.objects.items()
        for frames in (tracked.points, tracked.conditioning)
        for frame in frames
    }
