"""What perf_analyzer sends, where the tool itself cannot run."""

from __future__ import annotations

import struct
from typing import Any

import orjson

from tests.service.listening import Answer, Client, head


class PerfAnalyzer:
    """The requests of `perf_analyzer -m MODEL -i http --service-kind triton -b 2` 2.60.0, header by
    header, on one connection."""

    agent = {"user_agent": "libcurl-agent/1.0", "accept": "*/*"}  # noqa: RUF012

    def __init__(self, client: Client, model: str, **headers: str) -> None:
        """headers: what `-H` adds to every request."""
        self._client, self._headers = client, {**self.agent, **headers}
        self._path = f"/v2/models/{model}"
        self._shape: list[int] = []

    def get(self, path: str) -> Any:
        self._client.send(head("GET", path, **self._headers))
        answer = self._client.answer()
        assert answer.status == 200
        return orjson.loads(answer.body)

    def control(self, path: str, body: bytes = b"") -> Answer:
        """As `--shared-memory` and `--trace-level` post."""
        return self._post(path, body, content_type="application/x-www-form-urlencoded")

    def describe(self) -> tuple[str, list[str]]:
        """What it asks first: name of the one input, and names of the outputs."""
        metadata = self.get(self._path)
        config = self.get(f"{self._path}/config")
        assert config["max_batch_size"] >= 2
        assert isinstance(self.get("/v2")["extensions"], list)
        (entry,) = metadata["inputs"]
        assert entry["datatype"] == "UINT8"
        assert {each["name"] for each in config["input"]} <= {entry["name"]}
        self._shape = [2, *entry["shape"][1:]]
        return entry["name"], sorted(output["name"] for output in metadata["outputs"])

    def infer_binary(self, name: str, outputs: list[str], data: bytes) -> Answer:
        content = self._content(name, outputs, {"parameters": {"binary_data_size": len(data)}})
        return self._post(
            f"{self._path}/infer",
            content + data,
            inference_header_content_length=len(content),
            content_type="application/octet-stream",
        )

    def infer_json(self, name: str, outputs: list[str], data: bytes) -> Answer:
        """As with `--input-tensor-format json --output-tensor-format json`."""
        content = self._content(name, outputs, {"data": [*data]}, binary=False)
        return self._post(
            f"{self._path}/infer",
            content,
            inference_header_content_length=len(content),
            content_type="application/json",
        )

    def statistics(self) -> dict[str, Any]:
        (found,) = self.get(f"{self._path}/stats")["model_stats"]
        return dict(found)

    def _post(self, path: str, body: bytes, **headers: object) -> Answer:
        headers = {**self._headers, "content_length": len(body), **headers}
        self._client.send(head("POST", path, **headers) + body)
        return self._client.answer()

    def _content(
        self, name: str, outputs: list[str], data: dict[str, Any], binary: bool = True
    ) -> bytes:
        entry = {"name": name, "datatype": "UINT8", "shape": self._shape, **data}
        wanted = [{"name": each, "parameters": {"binary_data": binary}} for each in outputs]
        return orjson.dumps({"id": "", "inputs": [entry], "outputs": wanted})


def assert_texts(blob: bytes, count: int) -> None:
    """A BYTES tensor of that many elements."""
    for _ in range(count):
        (size,) = struct.unpack_from("<I", blob)
        blob = blob[4 + size :]
    assert not blob
