"""The GraphQL schema, its resolvers, and its HTTP view at /graphql.

Source: ``demo/backend/server/schema.py`` of the official repository.
"""

import json
import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import strawberry
from flask import Request, Response, request
from graphql import GraphQLError
from strawberry import relay
from strawberry.extensions import MaskErrors, MaxTokensLimiter
from strawberry.file_uploads import Upload
from strawberry.flask.views import GraphQLView
from strawberry.http.sync_base_view import SyncHTTPRequestAdapter
from strawberry.types import ExecutionContext, Info
from werkzeug.exceptions import HTTPException

from sam2fast.demo.server.access import MAX_QUERY_BYTES, describe_error, is_upload
from sam2fast.demo.server.demo_errors import INTERNAL, BadInputError, DemoError, TooLargeError
from sam2fast.demo.server.graphql_types import (
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
from sam2fast.demo.server.query_limits import MAX_TOKENS, QueryLimiter
from sam2fast.demo.server.service import DemoService
from sam2fast.demo.server.uploads import Uploads

_log = logging.getLogger(__name__)


class Context(NamedTuple):
    """The context of the resolvers."""

    service: DemoService
    uploads: Uploads
    request: Request

    @property
    def base_url(self) -> str:
        """Prefix of the videos' addresses."""
        return (self.service.settings.api_url or self.request.host_url).rstrip("/")


@strawberry.type
class Query:
    @strawberry.field(description="The video to begin with.")
    def default_video(self, info: Info[Context, None]) -> Video:
        """The video that the settings name, or the gallery's first."""
        context = info.context
        found = context.service.library.default(context.service.settings.default_video)
        return Video.of(found, context.base_url)

    @relay.connection(CheckedConnection[Video], description="The gallery.")
    def videos(self, info: Info[Context, None]) -> Iterable[Video]:
        """All videos, sorted by name."""
        context = info.context
        return [Video.of(video, context.base_url) for video in context.service.library.gallery()]


@strawberry.type
class Mutation:
    @strawberry.mutation(description="Adds a video and keeps a part of it; see GET /api/limits.")
    def upload_video(
        self,
        info: Info[Context, None],
        file: Upload,
        start_time_sec: float | None = None,
        duration_time_sec: float | None = None,
    ) -> Video:
        """See :meth:`Uploads.add`."""
        context = info.context
        with context.service.jobs.run(context.request.args.get("job")) as report:
            found = context.uploads.add(file, start_time_sec, duration_time_sec, report)
        return Video.of(found, context.base_url)

    @strawberry.mutation
    def start_session(self, info: Info[Context, None], input: StartSessionInput) -> StartSession:
        """See :meth:`DemoService.start_session`."""
        return StartSession(session_id=info.context.service.start_session(input.path).id)

    @strawberry.mutation
    def close_session(self, info: Info[Context, None], input: CloseSessionInput) -> CloseSession:
        """See :meth:`SessionStore.close`."""
        return CloseSession(success=info.context.service.sessions.close(input.session_id))

    @strawberry.mutation(description="Points are shares of the image's width and height; labels 2, 3 make a box.")
    def add_points(self, info: Info[Context, None], input: AddPointsInput) -> RLEMaskListOnFrame:
        """See :meth:`SessionCalls.add_points`."""
        service, prompt = info.context.service, (input.points, input.labels, input.clear_old_points)
        masks = service.call(service.calls.add_points, input.session_id, input.frame_index, input.object_id, *prompt)
        return RLEMaskListOnFrame.of(input.frame_index, masks)

    @strawberry.mutation(description="The other objects' masks on the frames where it had points.")
    def remove_object(self, info: Info[Context, None], input: RemoveObjectInput) -> list[RLEMaskListOnFrame]:
        """See :meth:`SessionCalls.remove_object`."""
        service = info.context.service
        changed = service.call(service.calls.remove_object, input.session_id, input.object_id)
        return [RLEMaskListOnFrame.of(frame, masks) for frame, masks in changed.items()]

    @strawberry.mutation
    def clear_points_in_frame(self, info: Info[Context, None], input: ClearPointsInFrameInput) -> RLEMaskListOnFrame:
        """See :meth:`SessionCalls.clear_points`."""
        service = info.context.service
        masks = service.call(service.calls.clear_points, input.session_id, input.frame_index, input.object_id)
        return RLEMaskListOnFrame.of(input.frame_index, masks)

    @strawberry.mutation
    def clear_points_in_video(self, info: Info[Context, None], input: ClearPointsInVideoInput) -> ClearPointsInVideo:
        """See :meth:`SessionCalls.clear_video`."""
        service = info.context.service
        service.call(service.calls.clear_video, input.session_id)
        return ClearPointsInVideo(success=True)

    @strawberry.mutation
    def cancel_propagate_in_video(
        self, info: Info[Context, None], input: CancelPropagateInVideoInput
    ) -> CancelPropagateInVideo:
        """See :meth:`Session.cancel_track`."""
        info.context.service.sessions.use(input.session_id).cancel_track()
        return CancelPropagateInVideo(success=True)


class DemoSchema(strawberry.Schema):
    """The schema; it logs internal errors and adds a code to errors of the client."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Runs before errors are sent."""
        for error in errors:
            if isinstance(error.original_error, DemoError):
                error.extensions = {**(error.extensions or {}), "code": error.original_error.code}
            elif _is_internal(error):
                _log.error("GraphQL: %s", error.message, exc_info=error.original_error)


def _is_internal(error: GraphQLError) -> bool:
    """Returns True if the server caused the error, and False if the request did."""
    return error.original_error is not None and not isinstance(error.original_error, DemoError | GraphQLError)


def make_schema() -> DemoSchema:
    """The schema with its limits."""
    return DemoSchema(
        query=Query,
        mutation=Mutation,
        extensions=[
            QueryLimiter,
            lambda: MaxTokensLimiter(max_token_count=MAX_TOKENS),
            lambda: MaskErrors(should_mask_error=_is_internal, error_message=INTERNAL),
        ],
    )


class DemoView(GraphQLView):
    """Strawberry's view without queries by GET, as in the official demo; created for each request."""

    def __init__(self, schema: DemoSchema, service: DemoService, uploads: Uploads) -> None:
        super().__init__(
            schema,
            graphql_ide="graphiql" if service.settings.graphiql else None,
            allow_queries_via_get=False,
            multipart_uploads_enabled=True,
        )
        self._service, self._uploads = service, uploads

    def get_context(self, request: Request, response: Response) -> Any:
        """The context of the resolvers."""
        return Context(self._service, self._uploads, request)

    def parse_http_body(self, request: SyncHTTPRequestAdapter) -> Any:
        """Parses the body; Strawberry does not check its structure."""
        try:
            return super().parse_http_body(request)
        except (AttributeError, TypeError, LookupError, ValueError) as error:
            raise BadInputError("this is not a GraphQL request: expected a JSON object with a query") from error

    def dispatch_request(self) -> Any:
        """Answers a request; an unreadable one gets a GraphQL error and a matching HTTP status."""
        try:
            # This reads the body of an upload, and may refuse it while it arrives.
            if is_upload() and len(request.form.get("operations", "")) > MAX_QUERY_BYTES:
                raise TooLargeError(f"the query is too large; it may have {MAX_QUERY_BYTES // 1024} kB")
            answer = super().dispatch_request()
        except (DemoError, HTTPException, RecursionError, OSError) as error:
            return _refusal(*describe_error(error, self._service.settings))
        if isinstance(answer, Response) and answer.status_code >= 400:
            return _refusal(answer.get_data(as_text=True), BadInputError.code, answer.status_code)
        return answer


def _refusal(message: str, code: str, status: int) -> Response:
    error = GraphQLError(message, extensions={"code": code}).formatted
    return Response(json.dumps({"data": None, "errors": [error]}), status, content_type="application/json")
