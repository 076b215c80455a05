"""The GraphQL schema and what answers it.

Source: ``demo/backend/server/schema.py`` of the original.
"""

import logging
from collections.abc import Iterable
from typing import NamedTuple

import strawberry
from flask import Request
from graphql import GraphQLError
from strawberry import relay
from strawberry.extensions import MaskErrors, MaxAliasesLimiter, MaxTokensLimiter, QueryDepthLimiter
from strawberry.file_uploads import Upload
from strawberry.types import ExecutionContext, Info

from sam2fast.demo.server.errors import DemoError
from sam2fast.demo.server.schema_types import (
    AddPointsInput,
    CancelPropagateInVideo,
    CancelPropagateInVideoInput,
    CheckedConnection,
    ClearPointsInFrameInput,
    ClearPointsInVideo,
    ClearPointsInVideoInput,
    CloseSession,
    CloseSessionInput,
    RemoveObjectInput,
    RLEMaskListOnFrame,
    StartSession,
    StartSessionInput,
    Video,
)
from sam2fast.demo.server.service import DemoService
from sam2fast.demo.server.uploads import Uploads

_log = logging.getLogger(__name__)

# Far more than the front ends ask for, and little enough to be answered at once.
DEEPEST, MOST_ALIASES, MOST_TOKENS = 10, 5, 2000
INTERNAL = "the server failed; its log says more"


class Context(NamedTuple):
    """What resolvers work with."""

    service: DemoService
    uploads: Uploads
    request: Request

    @property
    def base_url(self) -> str:
        """Begins the addresses of videos."""
        return (self.service.settings.api_url or self.request.host_url).rstrip("/")


@strawberry.type
class Query:
    @strawberry.field(description="The video to begin with.")
    def default_video(self, info: Info[Context, None]) -> Video:
        """The one that the settings name, or the gallery's first."""
        context = info.context
        found = context.service.library.default(context.service.settings.default_video)
        return Video.of(found, context.base_url)

    @relay.connection(CheckedConnection[Video], description="The gallery.")
    def videos(self, info: Info[Context, None]) -> Iterable[Video]:
        """All of them, by name."""
        context = info.context
        return [Video.of(video, context.base_url) for video in context.service.library.gallery()]


@strawberry.type
class Mutation:
    @strawberry.mutation(description="Adds a video, of which it keeps a part; see GET /api/limits.")
    def upload_video(
        self,
        info: Info[Context, None],
        file: Upload,
        start_time_sec: float | None = None,
        duration_time_sec: float | None = None,
    ) -> Video:
        """See :meth:`Uploads.add`."""
        context = info.context
        return Video.of(context.uploads.add(file, start_time_sec, duration_time_sec), context.base_url)

    @strawberry.mutation
    def start_session(self, info: Info[Context, None], input: StartSessionInput) -> StartSession:
        """See :meth:`DemoService.start_session`."""
        return StartSession(session_id=info.context.service.start_session(input.path).id)

    @strawberry.mutation
    def close_session(self, info: Info[Context, None], input: CloseSessionInput) -> CloseSession:
        """See :meth:`DemoService.close_session`."""
        return CloseSession(success=info.context.service.close_session(input.session_id))

    @strawberry.mutation(description="Points are shares of the picture's width and height; labels 2, 3 make a box.")
    def add_points(self, info: Info[Context, None], input: AddPointsInput) -> RLEMaskListOnFrame:
        """See :meth:`DemoService.add_points`."""
        masks = info.context.service.add_points(
            input.session_id, input.frame_index, input.object_id, input.points, input.labels, input.clear_old_points
        )
        return RLEMaskListOnFrame.of(input.frame_index, masks)

    @strawberry.mutation(description="The other objects' masks on the frames where it had points.")
    def remove_object(self, info: Info[Context, None], input: RemoveObjectInput) -> list[RLEMaskListOnFrame]:
        """See :meth:`DemoService.remove_object`."""
        changed = info.context.service.remove_object(input.session_id, input.object_id)
        return [RLEMaskListOnFrame.of(frame, masks) for frame, masks in changed.items()]

    @strawberry.mutation
    def clear_points_in_frame(self, info: Info[Context, None], input: ClearPointsInFrameInput) -> RLEMaskListOnFrame:
        """See :meth:`DemoService.clear_points_in_frame`."""
        masks = info.context.service.clear_points_in_frame(input.session_id, input.frame_index, input.object_id)
        return RLEMaskListOnFrame.of(input.frame_index, masks)

    @strawberry.mutation
    def clear_points_in_video(self, info: Info[Context, None], input: ClearPointsInVideoInput) -> ClearPointsInVideo:
        """See :meth:`DemoService.clear_points_in_video`."""
        info.context.service.clear_points_in_video(input.session_id)
        return ClearPointsInVideo(success=True)

    @strawberry.mutation
    def cancel_propagate_in_video(
        self, info: Info[Context, None], input: CancelPropagateInVideoInput
    ) -> CancelPropagateInVideo:
        """See :meth:`DemoService.cancel_track`."""
        info.context.service.cancel_track(input.session_id)
        return CancelPropagateInVideo(success=True)


class DemoSchema(strawberry.Schema):
    """The schema, which logs what is its own fault and gives what is the client's a code."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Looks at errors before they are sent."""
        for error in errors:
            if isinstance(error.original_error, DemoError):
                error.extensions = {**(error.extensions or {}), "code": error.original_error.code}
            elif _is_internal(error):
                _log.error("GraphQL: %s", error, exc_info=error.original_error)


def _is_internal(error: GraphQLError) -> bool:
    """Whether it is about the server rather than about what was asked."""
    return error.original_error is not None and not isinstance(error.original_error, DemoError | GraphQLError)


def make_schema() -> DemoSchema:
    """The schema with its limits."""
    return DemoSchema(
        query=Query,
        mutation=Mutation,
        extensions=[
            lambda: QueryDepthLimiter(max_depth=DEEPEST),
            lambda: MaxAliasesLimiter(max_alias_count=MOST_ALIASES),
            lambda: MaxTokensLimiter(max_token_count=MOST_TOKENS),
            lambda: MaskErrors(should_mask_error=_is_internal, error_message=INTERNAL),
        ],
    )
