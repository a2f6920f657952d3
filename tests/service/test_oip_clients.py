"""Public clients on real sockets: `tritonclient[http]` unmodified, and what perf_analyzer sends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pytest
from tritonclient import http as triton
from tritonclient.http import aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.service.live import Live, live
from tests.service.perf_analyzer import PerfAnalyzer, assert_texts
from tests.service.scripted import SIZE, encoded, jpeg, pixels


@pytest.fixture(scope="module")
def served() -> Iterator[Live]:
    """One service for all tests of this module."""
    with live() as running:
        yield running


@pytest.fixture
def client(served: Live) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}", concurrency=4) as found:
        yield found


def tensor_of(*colours: str, binary: bool = True) -> triton.InferInput:
    """Pixels, as a numpy array."""
    images = np.stack([pixels(colour) for colour in colours])
    made = triton.InferInput("image", list(images.shape), "UINT8")
    made.set_data_from_numpy(images, binary_data=binary)
    return made


def tensor_of_files(*files: bytes) -> triton.InferInput:
    """Encoded images, as an array of bytes objects."""
    made = triton.InferInput("image_bytes", [len(files)], "BYTES")
    made.set_data_from_numpy(np.array(files, object))
    return made


def labels(result: triton.InferResult, name: str = "label") -> list[str]:
    texts: npt.NDArray[Any] = result.as_numpy(name)
    return [text if isinstance(text, str) else text.decode() for text in texts.ravel()]


def refusal(call: Any, *arguments: Any, **options: Any) -> InferenceServerException:
    with pytest.raises(InferenceServerException) as refused:
        call(*arguments, **options)
    return refused.value


def test_it_is_live_ready_and_describes_itself(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours")
    assert client.is_model_ready("colours", "1")
    assert not client.is_model_ready("other")
    assert "statistics" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("colours")
    assert metadata == client.get_model_metadata("colours", "1")
    assert metadata["inputs"][0]["shape"] == [-1, SIZE, SIZE, 3]
    assert client.get_model_config("colours")["max_batch_size"] == 32


def test_numpy_arrays(client: triton.InferenceServerClient) -> None:
    result = client.infer("colours", [tensor_of("green", "blue")], request_id="mine")
    assert labels(result) == ["green", "blue"]
    assert result.as_numpy("probabilities").argmax(axis=1).tolist() == [1, 2]
    assert labels(result, "point") == ["full", "full"]
    response = result.get_response()
    assert (response["id"], response["model_version"]) == ("mine", "1")


def test_encoded_files(client: triton.InferenceServerClient) -> None:
    files = [jpeg("red"), encoded("PNG", "green"), encoded("WEBP", "blue")]
    result = client.infer("colours", [tensor_of_files(*files)], model_version="1")
    assert labels(result) == ["red", "green", "blue"]


def test_tensors_as_json_both_ways(client: triton.InferenceServerClient) -> None:
    outputs = [
        triton.InferRequestedOutput("label", binary_data=False),
        triton.InferRequestedOutput("probabilities", binary_data=False),
    ]
    result = client.infer("colours", [tensor_of("blue", binary=False)], outputs=outputs)
    assert labels(result) == ["blue"]
    assert result.as_numpy("probabilities").shape == (1, 3)


@pytest.mark.parametrize("binary", [True, False])
def test_classes(client: triton.InferenceServerClient, binary: bool) -> None:
    wanted = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)
    result = client.infer("colours", [tensor_of("blue")], outputs=[wanted])
    first, second = labels(result, "probabilities")
    assert first.endswith(":2:blue")
    assert second.endswith(":0:red")


def test_objectives_as_parameters_and_the_contract_in_the_answer(
    client: triton.InferenceServerClient,
) -> None:
    asked = {"slo_ms": 5000, "operating_point": "skip", "on_infeasible": "reject"}
    result = client.infer("colours", [tensor_of("red")], parameters=asked)
    told = result.get_response()["parameters"]
    assert told["slo_ms"] == 5000
    assert told["slo_class"] == "custom"
    assert (told["operating_point"], told["reason"]) == ("skip", "pinned")
    assert told["outcome"] == "met"
    assert 0 < told["slack_ms"] < 5000
    assert told["predicted_completion_p95_ms"] > told["predicted_completion_p50_ms"] > 0


def test_objectives_as_timeout_or_headers(client: triton.InferenceServerClient) -> None:
    by_timeout = client.infer("colours", [tensor_of("red")], timeout=4_000_000)
    assert by_timeout.get_response()["parameters"]["slo_ms"] == 4000
    by_header = client.infer("colours", [tensor_of("red")], headers={"X-SLO-MS": "3000"})
    assert by_header.get_response()["parameters"]["slo_ms"] == 3000


def test_an_explanation_is_an_output(client: triton.InferenceServerClient) -> None:
    result = client.infer("colours", [tensor_of("red")], parameters={"explain": True})
    (text,) = labels(result, "explanation")
    assert orjson.loads(text)["image_size"] == SIZE


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client: triton.InferenceServerClient, algorithm: str) -> None:
    result = client.infer(
        "colours",
        [tensor_of("green")],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert labels(result) == ["green"]


def test_requests_side_by_side(client: triton.InferenceServerClient) -> None:
    colours = ["red", "green", "blue", "green"]
    running = [client.async_infer("colours", [tensor_of(colour)]) for colour in colours]
    assert [labels(each.get_result()) for each in running] == [[colour] for colour in colours]


def test_the_asyncio_client(served: Live) -> None:
    async def ask() -> triton.InferResult:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{served.port}") as found:
            assert await found.is_server_ready()
            return await found.infer("colours", [tensor_of_files(jpeg("green"))])

    assert labels(asyncio.run(ask())) == ["green"]


def test_errors_have_their_reason_and_status(client: triton.InferenceServerClient) -> None:
    unknown = refusal(client.infer, "other", [tensor_of("red")])
    assert unknown.message() == "unknown model 'other'; there are: colours"
    assert unknown.status() == "404"
    version = refusal(client.get_model_metadata, "colours", "2")
    assert version.message() == "'colours' has version 1 only, got '2'"
    floats = triton.InferInput("image", [1, 3, SIZE, SIZE], "FP32")
    floats.set_data_from_numpy(np.zeros((1, 3, SIZE, SIZE), np.float32))
    assert (
        "send 'image' UINT8 [-1, 32, 32, 3]" in refusal(client.infer, "colours", [floats]).message()
    )
    hopeless = {"slo_ms": 0.001, "on_infeasible": "reject"}
    late = refusal(client.infer, "colours", [tensor_of("red")], parameters=hopeless)
    assert late.status() == "429"
    region = tensor_of("red")
    region.set_shared_memory("mine", 3072)
    shared = refusal(client.infer, "colours", [region])
    assert shared.message() == "'image': shared memory is not supported; tensors travel in the body"


def test_statistics_count_what_was_asked(client: triton.InferenceServerClient) -> None:
    def successes() -> tuple[int, int]:
        (found,) = client.get_inference_statistics("colours")["model_stats"]
        return found["inference_count"], found["inference_stats"]["success"]["count"]

    images, requests = successes()
    client.infer("colours", [tensor_of("red", "green")])
    # The end of a request is counted after its answer was sent, and before the next one's.
    assert successes() == (images + 2, requests + 1)
    assert len(client.get_inference_statistics()["model_stats"]) == 1


def test_models_settings_and_memory(client: triton.InferenceServerClient) -> None:
    (entry,) = client.get_model_repository_index()
    assert (entry["name"], entry["state"]) == ("colours", "READY")
    client.load_model("colours")
    assert "models are fixed" in refusal(client.unload_model, "colours").message()
    assert client.update_trace_settings(settings={}) == client.get_trace_settings("colours")
    assert client.get_log_settings()["log_info"] is True
    assert client.get_system_shared_memory_status() == []
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory("mine")
    refused = refusal(client.register_system_shared_memory, "mine", "/mine", 8)
    assert "system shared memory is not supported" in refused.message()


RANDOM = np.random.default_rng(0).bytes(2 * SIZE * SIZE * 3)


def test_a_run_of_perf_analyzer(served: Live) -> None:
    with served.connect() as connection:
        tool = PerfAnalyzer(connection, "colours", x_slo_ms="20000")
        name, outputs = tool.describe()
        before = tool.statistics()
        for _ in range(3):
            answer = tool.infer_binary(name, outputs, RANDOM)
            assert answer.status == 200
            length = int(answer.headers["inference-header-content-length"])
            content = orjson.loads(answer.body[:length])
            assert [each["name"] for each in content["outputs"]] == outputs
            sizes = [each["parameters"]["binary_data_size"] for each in content["outputs"]]
            assert sum(sizes) == len(answer.body) - length
            assert content["parameters"]["slo_ms"] == 20_000
            assert_texts(answer.body[length : length + sizes[0]], 2)
        after = tool.statistics()
    spent = {name: counts["count"] for name, counts in after["inference_stats"].items()}
    assert spent["compute_input"] == spent["compute_infer"] == spent["compute_output"]
    gone = {
        name: spent[name] - counts["count"] for name, counts in before["inference_stats"].items()
    }
    assert gone["success"] == gone["queue"] == gone["compute_infer"] == 3
    assert gone["fail"] == gone["cache_hit"] == gone["cache_miss"] == 0
    assert after["inference_count"] - before["inference_count"] == 6
    assert 3 <= after["execution_count"] - before["execution_count"] <= 6


def test_a_run_of_perf_analyzer_in_json(served: Live) -> None:
    """The length header is there all the same, and covers the whole body."""
    with served.connect() as connection:
        tool = PerfAnalyzer(connection, "colours")
        name, outputs = tool.describe()
        answer = tool.infer_json(name, outputs, RANDOM)
    assert answer.status == 200
    assert "inference-header-content-length" not in answer.headers
    content = orjson.loads(answer.body)
    assert [(each["name"], len(each["data"])) for each in content["outputs"]] == [
        ("label", 2), ("point", 2), ("probabilities", 6),
    ]  # fmt: skip


def test_what_perf_analyzer_asks_beyond_its_default(served: Live) -> None:
    with served.connect() as connection:
        tool = PerfAnalyzer(connection, "colours")
        assert tool.control("/v2/systemsharedmemory/unregister").status == 200
        assert tool.control("/v2/cudasharedmemory/unregister").status == 200
        body = b'{"key":"/label","offset":0,"byte_size":64}'
        refused = tool.control("/v2/systemsharedmemory/region/label/register", body)
        assert (refused.status, "not supported" in refused.error) == (400, True)
        refused = tool.control("/v2/trace/setting", b'{"trace_level":["TIMESTAMPS"]}')
        assert (refused.status, "there are no traces" in refused.error) == (400, True)
