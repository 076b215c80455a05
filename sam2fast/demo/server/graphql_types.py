"""The types of the GraphQL schema; the schema is the official demo's.

Source: ``demo/backend/server/data/data_types.py`` and ``schema.py`` of the official repository.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import strawberry
from strawberry import relay

from sam2fast.demo.server.demo_errors import BadInputError
from sam2fast.demo.server.frame_masks import ObjectMask
from sam2fast.demo.server.library import LibraryVideo


@strawberry.type(description="A video of the gallery or the uploads.")
class Video(relay.Node):
    code: relay.NodeID[str]
    path: str = strawberry.field(description="Relative to the data folder; what startSession takes.")
    poster_path: str | None
    width: int
    height: int
    base_url: strawberry.Private[str]

    @strawberry.field(description="Address of the file.")
    def url(self) -> str:
        """On this server."""
        return f"{self.base_url}/{quote(self.path)}"

    @strawberry.field(description="Address of an image of its first frame.")
    def poster_url(self) -> str:
        """On this server; without a poster the address ends in ``None``, as in the official demo."""
        return f"{self.base_url}/{quote(str(self.poster_path))}"

    @classmethod
    def of(cls, video: LibraryVideo, base_url: str) -> "Video":
        """The GraphQL type of a video of the library."""
        return cls(
            code=video.path,
            path=video.path,
            poster_path=video.poster,
            width=video.width,
            height=video.height,
            base_url=base_url,
        )


@strawberry.type(name="Connection")
class CheckedConnection(relay.ListConnection[relay.NodeType]):
    """A paginated list that reports invalid arguments as ``BAD_INPUT``."""

    @classmethod
    def resolve_connection(cls, nodes: Any, **arguments: Any) -> Any:
        """See the base class."""
        try:
            return super().resolve_connection(nodes, **arguments)
        except (ValueError, TypeError) as error:
            raise BadInputError(str(error)) from error


@strawberry.type
class RLEMask:
    size: list[int] = strawberry.field(description="[height, width] of the video.")
    counts: str = strawberry.field(description="COCO's compressed run lengths, down the columns.")
    order: str


@strawberry.type
class RLEMaskForObject:
    object_id: int
    rle_mask: RLEMask


@strawberry.type
class RLEMaskListOnFrame:
    frame_index: int
    rle_mask_list: list[RLEMaskForObject]

    @classmethod
    def of(cls, frame: int, masks: Mapping[int, ObjectMask]) -> "RLEMaskListOnFrame":
        """The masks of all objects on a frame."""
        return cls(
            frame_index=frame,
            rle_mask_list=[
                RLEMaskForObject(
                    object_id=object_id,
                    rle_mask=RLEMask(size=mask.rle["size"], counts=mask.rle["counts"], order="F"),
                )
                for object_id, mask in masks.items()
            ],
        )


@strawberry.type
class StartSession:
    session_id: str


@strawberry.type
class CloseSession:
    success: bool


@strawberry.type
class ClearPointsInVideo:
    success: bool


@strawberry.type
class CancelPropagateInVideo:
    success: bool


@strawberry.input
class StartSessionInput:
    path: str


@strawberry.input
class CloseSessionInput:
    session_id: str


@strawberry.input
class AddPointsInput:
    session_id: str
    frame_index: int
    clear_old_points: bool
    object_id: int
    labels: list[int]
    points: list[list[float]]


@strawberry.input
class ClearPointsInFrameInput:
    session_id: str
    frame_index: int
    object_id: int


@strawberry.input
class ClearPointsInVideoInput:
    session_id: str


@strawberry.input
class RemoveObjectInput:
    session_id: str
    object_id: int


@strawberry.input
class CancelPropagateInVideoInput:
    session_id: str
