"""TF Serving's REST interface (model_servers/http_rest_api_handler.cc), and `:explain`, which is this server's own."""

import re
from collections.abc import Mapping
from typing import Any

from .admission import Bodies, Body, Receive
from .apart import EXAMPLES_APART
from .models import Version
from .requests import read_classify_body, read_explain_body, read_predict_body, read_regress_body
from .responses import dump, write_classifications, write_outputs
from .running import aside
from .servable import Servable, example_schema
from .service import Service
from .signature import REGRESS
from .status import invalid
from .tensors import size_of

_MODEL = r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_CALL = re.compile(_MODEL + r":(?P<call>classify|regress|predict|explain)", re.IGNORECASE)
_LOOK = re.compile(_MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE)
MAX_VERSION = 2**63


class Rest:
    """Answers requests below /v1/."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.bodies = Bodies(service.options)

    async def answer(self, method: str, path: str, headers: Mapping[str, str], receive: Receive) -> bytes:
        """The body of the answer, in JSON.

        Raises:
            RequestError: there is none.
        """
        if method == "POST" and (call := _CALL.fullmatch(path)):
            with self.bodies.holding() as body:
                try:
                    return await self._call(call, headers, receive, body)
                finally:
                    self.service.give_back_memory(body.size)
        if method in ("GET", "HEAD"):
            if path.rstrip("/").lower() == "/v1/models":
                return dump({"models": self._list()})
            if look := _LOOK.fullmatch(path):
                return self._look(look)
        raise invalid(
            f"Malformed request: {method} {path[:200]}; expected POST /v1/models/NAME[/versions/V|/labels/L]:predict, "
            ":classify or :explain, or GET /v1/models/NAME[/versions/V|/labels/L][/metadata]"
        )

    async def _call(self, call: re.Match[str], headers: Mapping[str, str], receive: Receive, body: Body) -> bytes:
        kind = call["call"].lower()
        handler = {"predict": self._predict, "classify": self._classify, "regress": self._regress}.get(
            kind, self._explain
        )
        data = await body.read(receive, headers)
        content_type = headers.get("content-type", "")
        number = _version(call["version"])

        async def work() -> bytes:
            version = self.service.models.find(call["model"], number, call["label"])
            with self.service.models.using(version) as servable:
                return await handler(version, servable, data, content_type)

        return await self.service.counted(call["model"], kind.capitalize(), "REST", work)

    async def _predict(self, version: Version, servable: Servable, data: bytes, content_type: str) -> bytes:
        specs = {name: signature.inputs for name, signature in servable.signatures.items()}
        name, arrays, rows = await self.service.read(read_predict_body, data, content_type, specs)
        signature = servable.signature(name)
        outputs = await self.service.predict(version, signature, arrays)
        return await aside(size_of(outputs.values()), write_outputs, outputs, rows)

    async def _classify(self, version: Version, servable: Servable, data: bytes, content_type: str) -> bytes:
        arguments = content_type, example_schema(), self.service.options.max_request
        name, examples = await self.service.read(read_classify_body, data, *arguments, most=EXAMPLES_APART)
        classes, scores = await self.service.classify(version, servable, name, examples)
        return await aside(size_of((classes, scores)), write_classifications, classes, scores)

    async def _regress(self, version: Version, servable: Servable, data: bytes, content_type: str) -> bytes:
        signature = servable.signature(await self.service.read(read_regress_body, data, content_type))
        raise invalid(
            f"Expected regression signature method_name to be {REGRESS}. Was: {signature.method_name}; use :predict or "
            ":classify"
        )

    async def _explain(self, version: Version, servable: Servable, data: bytes, content_type: str) -> bytes:
        document = await self.service.read(read_explain_body, data, content_type)
        return dump(await self.service.explainer.explain(version, servable, document))

    def _look(self, look: re.Match[str]) -> bytes:
        number = _version(look["version"])
        if not look["metadata"]:
            rows = self.service.models.states(look["model"], number)  # whatever the label, as TF Serving
            return dump({"model_version_status": [_status(row) for row in rows]})
        version = self.service.models.find(look["model"], number, look["label"])
        with self.service.models.using(version) as servable:
            return dump(metadata(version, servable))

    def _list(self) -> list[dict[str, Any]]:
        """What the page offers. TF Serving has no such list."""
        return [
            {
                "name": model.name,
                "labels": model.labels,
                "versions": [
                    {
                        "version": str(number),
                        "state": version.state,
                        "error": version.error,
                        "signatures": sorted(version.servable.signatures) if version.servable else [],
                        "kind": version.servable.kind if version.servable else None,
                        "explains": self.service.explainer.source(version, version.servable),
                    }
                    for number, version in sorted(model.versions.items(), reverse=True)
                ],
            }
            for _, model in sorted(self.service.models.models.items())
            if model.versions
        ]


def metadata(version: Version, servable: Servable) -> dict[str, Any]:
    """GetModelMetadataResponse."""
    from google.protobuf.json_format import MessageToDict

    signatures = {
        name: MessageToDict(definition, preserving_proto_field_name=True)
        for name, definition in servable.definitions.items()
    }
    return {
        "model_spec": {"name": version.model, "signature_name": "", "version": str(version.number)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _status(version: Version) -> dict[str, Any]:
    code = "UNKNOWN" if version.error else "OK"
    return {
        "version": str(version.number),
        "state": version.state,
        "status": {"error_code": code, "error_message": version.error},
    }


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if int(text) >= MAX_VERSION:
        raise invalid(f"Failed to convert version: {text[:40]} to numeric.")
    return int(text)
