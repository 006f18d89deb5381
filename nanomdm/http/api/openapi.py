"""
C{/v1/openapi.yaml}.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from nanomdm.http.health import OpenEndpoint
from nanomdm.http.request import Request
from nanomdm.http.response import Response

_YAML: Final = b"application/yaml"


class OpenAPIEndpoint(OpenEndpoint):
    """
    C{GET /v1/openapi.yaml}: describes every endpoint, to anybody (OpenAPI 3.1).
    """

    route = "/v1/openapi.yaml"

    def __init__(self) -> None:
        super().__init__()
        document = files("nanomdm.http.api").joinpath("openapi.yaml").read_bytes()
        self._document = Response(200, document, _YAML)

    async def look(self, request: Request) -> Response:
        """
        Hand out the document, which was read at the start.
        """
        return self._document
