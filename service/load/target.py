"""What is asked of a server: requests as bytes, made once, and what its answers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from service.load.client import Client, LoadError, Response, Server
from service.load.pictures import PictureFile
from service.load.records import OK

CLASSIFY = "/v1/classify"
_ROUTES = {
    "classification": CLASSIFY,
    "detection": "/v1/detect",
    "segmentation": "/v1/segment",
}
"""Where a picture goes, by the task of the model."""
MODELS = "/v1/models"
METRICS = "/metrics"
_LENGTH_HEADER = "inference-header-content-length"
_SPELLED = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Ask:
    """What every request of a run says beside its own budget; None says nothing."""

    slo_class: str | None = None
    point: str | None = None
    min_accuracy: float | None = None
    on_infeasible: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def lines(self) -> bytes:
        """As header lines. LoadError for one that HTTP does not allow."""
        named = (
            ("x-slo-class", self.slo_class),
            ("x-operating-point", self.point),
            ("x-min-accuracy", None if self.min_accuracy is None else f"{self.min_accuracy:g}"),
            ("x-on-infeasible", self.on_infeasible),
        )
        given = [(name, value) for name, value in named if value is not None]
        return b"".join(_header(name, value) for name, value in [*given, *self.headers])


@dataclass(frozen=True, slots=True)
class Served:
    """A model as the server describes it. size: pixels of `full`, which tensors must have.

    sizes: of every point. accuracy: of those where it was measured. service_s: what the server
    thinks that one image takes in the engine, by its own table; empty before it knows. glances: of
    points that glance the share of images looked at again, and what such a one takes over what is
    expected.
    """

    name: str
    size: int
    points: tuple[str, ...]
    accuracy: Mapping[str, float]
    sizes: Mapping[str, int] = field(default_factory=dict)
    service_s: Mapping[str, float] = field(default_factory=dict)
    glances: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    task: str = "classification"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a result says about itself; None where it does not.

    service_s: dispatch to engine done. receive_s, decode_s, queue_s: before that. looked_again:
    whether the picture was, where the point glances.
    """

    point: str | None = None
    accuracy: float | None = None
    slo_s: float | None = None
    outcome: str | None = None
    service_s: float | None = None
    receive_s: float | None = None
    decode_s: float | None = None
    queue_s: float | None = None
    looked_again: bool | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A request but for its budget: `head` lacks its last blank line. name: of its picture."""

    name: str
    route: str
    head: bytes
    body: bytes

    def parts(self, slo_s: float | None) -> tuple[bytes, bytes]:
        """Ready to be sent; with a budget of its own, in seconds."""
        line = b"" if slo_s is None else _header("x-slo-ms", f"{slo_s * 1e3:.6g}")
        return self.head + line + b"\r\n", self.body


async def find_model(client: Client, ask: Ask, name: str | None = None) -> Served:
    """The model of that name, or the only one. LoadError where the server is not ours."""
    response = await client.send(get(client.server, MODELS, ask.headers))
    if response.status == 401:
        raise LoadError(f"{client.server.url} wants an API key: --key-file FILE")
    content = _json_of(response)
    if response.status != OK or not isinstance(content.get("models"), list):
        raise LoadError(
            f"{client.server.url} is no server of ours: GET {MODELS} answered "
            f"{response.status} {response.body[:80]!r}"
        )
    models = {one["name"]: one for one in content["models"]}
    if name is None and len(models) != 1:
        raise LoadError(f"name a model with --model; there are: {', '.join(sorted(models))}")
    found = models.get(name) if name is not None else next(iter(models.values()))
    if found is None:
        raise LoadError(f"no model '{name}'; there are: {', '.join(sorted(models))}")
    points = found["points"]
    return Served(
        name=found["name"],
        size=next(one["image_size"] for one in points if one["name"] == "full"),
        points=tuple(one["name"] for one in points),
        accuracy={one["name"]: one["accuracy"]["value"] for one in points if one["accuracy"]},
        sizes={one["name"]: one["image_size"] for one in points},
        service_s={
            one["name"]: seconds for one in points if (seconds := _expected_s(one)) is not None
        },
        glances={
            one["name"]: (glance["again"], glance["service_again_ms"] / 1e3 / expected_s)
            for one in points
            if (glance := one.get("glance")) and (expected_s := _expected_s(one))
        },
        task=found.get("task", "classification"),
    )


def file_calls(
    server: Server, model: Served, pictures: Sequence[PictureFile], ask: Ask
) -> tuple[Call, ...]:
    """`POST /v1/classify` of every picture as it is, or the route of the model's task."""
    route = _ROUTES.get(model.task)
    if route is None:
        raise LoadError(f"'{model.name}' is of task '{model.task}', which is not known here")
    path = f"{route}?model={quote(model.name)}"
    if route == CLASSIFY:
        path += "&top=1"
    return tuple(
        _post(server, path, one.name, one.data, _header("content-type", one.content_type), ask)
        for one in pictures
    )


def tensor_calls(
    server: Server, model: Served, pictures: Sequence[PictureFile], ask: Ask
) -> tuple[Call, ...]:
    """Open Inference Protocol requests of every picture as UINT8 [1, size, size, 3].

    Raises ImageError for a file that cannot be decoded.
    """
    from engines.detection.letterbox import decode_whole
    from engines.preprocessing import preprocess

    calls, labels = [], model.task == "classification"
    for one in pictures:
        square = (
            preprocess(one.data, model.size, crop_ratio=1.0)
            if labels
            else decode_whole(one.data, model.size)
        )
        pixels = square.tobytes()
        tensor = {
            "name": "image",
            "datatype": "UINT8",
            "shape": [1, model.size, model.size, 3],
            "parameters": {"binary_data_size": len(pixels)},
        }
        wanted = "label" if labels else "counts"
        json = orjson.dumps({"inputs": [tensor], "outputs": [{"name": wanted}]})
        lines = _header("content-type", "application/octet-stream")
        lines += _header(_LENGTH_HEADER, str(len(json)))
        path = f"/v2/models/{quote(model.name)}/infer"
        calls.append(_post(server, path, one.name, json + pixels, lines, ask))
    return tuple(calls)


def get(server: Server, path: str, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """A whole GET request."""
    lines = b"".join(_header(name, value) for name, value in headers)
    return _start("GET", server, path) + lines + b"\r\n"


def read_answer(response: Response) -> Answer:
    """What a result of either protocol says about itself."""
    content = _json_of(response)
    told = content.get("parameters", content)
    if not isinstance(told, dict):
        return Answer()
    objective = told.get("objective")
    measured, phases = told.get("measured"), told.get("milliseconds")
    flat = {name.removesuffix("_ms"): value for name, value in told.items()}
    if isinstance(phases, dict):
        flat.update(phases)
    return Answer(
        point=told.get("point", told.get("operating_point")),
        accuracy=told.get("accuracy"),
        slo_s=_seconds((objective if isinstance(objective, dict) else told).get("slo_ms")),
        outcome=told.get("outcome"),
        service_s=_seconds((measured if isinstance(measured, dict) else told).get("service_ms")),
        receive_s=_seconds(flat.get("receive")),
        decode_s=_seconds(flat.get("decode")),
        queue_s=_seconds(flat.get("queue")),
        looked_again=_SPELLED.get(str(told.get("looked_again")).lower()),
    )


def phases_ms(response: Response) -> dict[str, float]:
    """Milliseconds per phase, as a result of either protocol tells them."""
    content = _json_of(response)
    told = content.get("milliseconds")
    if isinstance(told, dict):
        return told
    flat = content.get("parameters", {})
    return {name.removesuffix("_ms"): value for name, value in flat.items() if name.endswith("_ms")}


def error_of(response: Response) -> str:
    """The message of a refusal, for people."""
    return str(_json_of(response).get("error", response.body[:200].decode("utf-8", "replace")))


def _json_of(response: Response) -> dict[str, Any]:
    length = response.headers.get(_LENGTH_HEADER.encode())
    try:
        content = orjson.loads(response.body[: int(length)] if length else response.body)
    except (orjson.JSONDecodeError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _expected_s(point: Mapping[str, Any]) -> float | None:
    """What an image takes in the engine; of a point that glances, by the share looked at again."""
    glance = point.get("glance")
    if glance is None:
        return _seconds(point.get("service_p50_ms"))
    once_s, again_s = (_seconds(glance.get(f"service_{which}_ms")) for which in ("once", "again"))
    if once_s is None or again_s is None:
        return None
    return once_s + float(glance["again"]) * (again_s - once_s)


def _seconds(milliseconds: object) -> float | None:
    return milliseconds / 1e3 if isinstance(milliseconds, int | float) else None


def parse_header(text: str) -> tuple[str, str]:
    """`name:value` as a user writes it. LoadError where it is not that."""
    name, colon, value = text.partition(":")
    if not colon:
        raise LoadError(f"not a header: '{text}'; write it as name:value")
    _header(name.strip(), value.strip())
    return name.strip().lower(), value.strip()


def _post(server: Server, path: str, name: str, body: bytes, lines: bytes, ask: Ask) -> Call:
    length = _header("content-length", str(len(body)))
    head = _start("POST", server, path) + lines + length + ask.lines()
    return Call(name, path.partition("?")[0], head, body)


def _start(method: str, server: Server, path: str) -> bytes:
    host = server.url.partition("://")[2].partition("/")[0]
    return f"{method} {server.prefix}{path} HTTP/1.1\r\nhost: {host}\r\n".encode()


def _header(name: str, value: str) -> bytes:
    line = f"{name}: {value}"
    if not name or not line.isascii() or not line.isprintable():
        raise LoadError(f"not a header: {line!r}; write it as name:value")
    return line.encode() + b"\r\n"
