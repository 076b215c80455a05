"""POST /graphql: the schema over HTTP, with every refusal as GraphQL's JSON."""

import json
from typing import Any

from flask import Request, Response, request
from graphql import GraphQLError
from strawberry.flask.views import GraphQLView
from strawberry.http.sync_base_view import SyncHTTPRequestAdapter
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from sam2fast.demo.server.access import brings_file, too_large
from sam2fast.demo.server.errors import BadInputError, DemoError
from sam2fast.demo.server.schema import Context, DemoSchema
from sam2fast.demo.server.service import DemoService
from sam2fast.demo.server.uploads import Uploads


class DemoView(GraphQLView):
    """Strawberry's view, without queries by GET, as in the original; a new one for each request."""

    def __init__(self, schema: DemoSchema, service: DemoService, uploads: Uploads) -> None:
        super().__init__(
            schema,
            graphql_ide="graphiql" if service.settings.graphiql else None,
            allow_queries_via_get=False,
            multipart_uploads_enabled=True,
        )
        self._service, self._uploads = service, uploads

    def get_context(self, request: Request, response: Response) -> Any:
        """What resolvers work with."""
        return Context(self._service, self._uploads, request)

    def parse_http_body(self, request: SyncHTTPRequestAdapter) -> Any:
        """What is asked; Strawberry takes some things for granted here."""
        try:
            return super().parse_http_body(request)
        except (AttributeError, TypeError, LookupError, ValueError) as error:
            raise BadInputError("this is no GraphQL request: expected a JSON object with a query") from error

    def dispatch_request(self) -> Any:
        """Answers a request; one that cannot be read gets an error in GraphQL's form, and a status that says so."""
        try:
            if brings_file():
                request.files  # noqa: B018  reads the body, which may be refused as it comes
            answer = super().dispatch_request()
        except DemoError as error:
            return _refusal(str(error), error.code, error.status)
        except RequestEntityTooLarge:
            told = too_large(self._service.settings)
            return _refusal(str(told), told.code, told.status)
        except HTTPException as error:
            return _refusal(error.description or error.name, error.name.upper().replace(" ", "_"), error.code or 400)
        except RecursionError:
            return _refusal("the request is nested too deeply", BadInputError.code, BadInputError.status)
        if isinstance(answer, Response) and answer.status_code >= 400:
            return _refusal(answer.get_data(as_text=True), BadInputError.code, answer.status_code)
        return answer


def _refusal(message: str, code: str, status: int) -> Response:
    error = GraphQLError(message, extensions={"code": code}).formatted
    return Response(json.dumps({"data": None, "errors": [error]}), status, content_type="application/json")
