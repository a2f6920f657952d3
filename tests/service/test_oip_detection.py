"""Models that find objects over the Open Inference Protocol, asked by `tritonclient[http]`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pytest
from PIL import Image
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from engines.core import UInt8Array
from engines.detection.rle import mask_of_rle
from tests.service.detectors import BoxEngine, BrightEngine, detector, encoded, scene
from tests.service.live import Live, live
from tests.service.perf_analyzer import PerfAnalyzer

SIZE = 512
NUMBERS = {"counts": "INT32", "boxes": "FP32", "scores": "FP32", "labels": "INT32"}


@pytest.fixture(scope="module")
def served() -> Iterator[Live]:
    """One service for all tests of this module."""
    with live(detector(BrightEngine())) as running:
        yield running


@pytest.fixture
def client(served: Live) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as found:
        yield found


def pixels_of(*pictures: UInt8Array, binary: bool = True) -> list[triton.InferInput]:
    images = np.stack(pictures)
    made = triton.InferInput("image", list(images.shape), "UINT8")
    made.set_data_from_numpy(images, binary_data=binary)
    return [made]


def files_of(*files: bytes) -> list[triton.InferInput]:
    made = triton.InferInput("image_bytes", [len(files)], "BYTES")
    made.set_data_from_numpy(np.array(files, object))
    return [made]


def outputs_of(*names: str, binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def texts(result: triton.InferResult, name: str) -> npt.NDArray[Any]:
    decoded = np.vectorize(lambda t: t if isinstance(t, str) else t.decode(), otypes=[object])
    found: npt.NDArray[Any] = decoded(result.as_numpy(name))
    return found


RECTANGLE = np.asarray(scene(SIZE, SIZE))
BLACK = np.zeros((SIZE, SIZE, 3), np.uint8)
# Left, top, right, bottom of its bright part.
BOX = [64, 64, 256, 128]


def test_it_describes_itself(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("things")
    assert metadata["inputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": [-1, 512, 512, 3]}
    ]
    shapes = {each["name"]: (each["datatype"], each["shape"]) for each in metadata["outputs"]}
    assert shapes == {
        "counts": ("INT32", [-1]),
        "boxes": ("FP32", [-1, -1, 4]),
        "scores": ("FP32", [-1, -1]),
        "labels": ("INT32", [-1, -1]),
        "masks": ("BYTES", [-1, -1]),
        "point": ("BYTES", [-1]),
    }
    config = client.get_model_config("things")
    assert config["max_batch_size"] == 32
    dims = {each["name"]: (each["data_type"], each["dims"]) for each in config["output"]}
    assert dims["boxes"] == ("TYPE_FP32", [-1, 4])
    assert dims["masks"] == ("TYPE_STRING", [-1])
    assert orjson.loads(config["parameters"]["labels"]["string_value"]) == ["thing"]
    assert "'image_bytes' BYTES [-1]" in config["parameters"]["inputs"]["string_value"]


@pytest.mark.parametrize("binary", [True, False])
def test_rows_are_filled_from_the_left(client: triton.InferenceServerClient, binary: bool) -> None:
    """Two objects, none, two: what is no object is 0, -1 or empty."""
    result = client.infer(
        "things",
        pixels_of(RECTANGLE, BLACK, RECTANGLE, binary=binary),
        outputs=outputs_of(*NUMBERS, "masks", "point", binary=binary),
        parameters={"min_score": 0.1, "slo_ms": 60_000},
    )
    assert result.as_numpy("counts").tolist() == [2, 0, 2]
    boxes = result.as_numpy("boxes")
    np.testing.assert_allclose(boxes[0], [BOX, [64, 64, 160, 128]])
    assert not boxes[1].any()
    np.testing.assert_array_equal(boxes[2], boxes[0])
    np.testing.assert_allclose(result.as_numpy("scores"), [[0.9, 0.3], [0.0, 0.0], [0.9, 0.3]])
    assert result.as_numpy("labels").tolist() == [[0, 0], [-1, -1], [0, 0]]
    dtypes = {name: result.as_numpy(name).dtype for name in NUMBERS}
    assert dtypes == {n: np.float32 if t == "FP32" else np.int32 for n, t in NUMBERS.items()}
    masks = texts(result, "masks")
    assert masks.shape == (3, 2)
    assert masks[1].tolist() == ["", ""]
    runs = orjson.loads(masks[0, 0])
    assert (mask_of_rle(runs["size"], runs["counts"]) == (RECTANGLE[:, :, 0] > 128)).all()
    assert texts(result, "point").tolist() == ["full"] * 3


@pytest.mark.parametrize("binary", [True, False])
def test_nothing_found_has_no_columns(client: triton.InferenceServerClient, binary: bool) -> None:
    outputs = outputs_of(*NUMBERS, "masks", binary=binary)
    result = client.infer("things", pixels_of(BLACK, BLACK), outputs=outputs)
    shapes = {name: result.as_numpy(name).shape for name in (*NUMBERS, "masks")}
    assert shapes == {
        "counts": (2,), "boxes": (2, 0, 4), "scores": (2, 0), "labels": (2, 0), "masks": (2, 0),
    }  # fmt: skip
    assert not result.as_numpy("counts").any()


def test_files_of_any_shape_have_their_own_pixels(client: triton.InferenceServerClient) -> None:
    sizes = [(256, 256), (696, 520), (1388, 1040)]
    files = [
        encoded(scene(*sizes[0])),
        encoded(scene(*sizes[1]), "JPEG"),
        encoded(scene(*sizes[2])),
    ]
    result = client.infer("things", files_of(*files))
    for box, (width, height) in zip(result.as_numpy("boxes")[:, 0], sizes, strict=True):
        wanted = [width // 8, height // 8, width // 2, height // 4]
        assert np.abs(box - wanted).max() <= 1.5 * max(width, SIZE) / SIZE
    runs = [orjson.loads(text) for text in texts(result, "masks")[:, 0]]
    assert [each["size"] for each in runs] == [[height, width] for width, height in sizes]


def test_turned_files_are_answered_upright(client: triton.InferenceServerClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = scene(240, 400).transpose(Image.Transpose.ROTATE_90)
    grey = scene(240, 400).convert("L")
    files = files_of(encoded(lying, "JPEG", exif=exif.tobytes()), encoded(grey))
    result = client.infer("things", files)
    np.testing.assert_allclose(result.as_numpy("boxes")[:, 0], [[30, 50, 120, 100]] * 2, atol=2.5)
    sizes = [orjson.loads(text)["size"] for text in texts(result, "masks")[:, 0]]
    assert sizes == [[400, 240]] * 2


def test_pixels_stay_those_that_were_sent_at_smaller_points(
    client: triton.InferenceServerClient,
) -> None:
    asked = {"operating_point": "small", "slo_ms": 5000}
    result = client.infer("things", pixels_of(RECTANGLE), parameters=asked)
    assert texts(result, "point").tolist() == ["small"]
    np.testing.assert_allclose(result.as_numpy("boxes")[0, 0], BOX, atol=2)
    told = result.get_response()["parameters"]
    assert (told["operating_point"], told["reason"], told["slo_ms"]) == ("small", "pinned", 5000)
    assert told["predicted_completion_p95_ms"] > told["predicted_completion_p50_ms"] > 0


def test_which_objects_are_answered_is_asked_by_parameters(
    client: triton.InferenceServerClient,
) -> None:
    def scores(**parameters: Any) -> list[float]:
        result = client.infer("things", pixels_of(RECTANGLE), parameters=parameters)
        return [round(float(score), 4) for score in result.as_numpy("scores")[0]]

    assert scores(slo_ms=5000) == [0.9]
    assert scores(min_score=0) == [0.9, 0.3]
    assert scores(min_score=0.1, top=1) == [0.9]
    assert scores(min_score=0.95) == []


def test_an_explanation_is_an_output(client: triton.InferenceServerClient) -> None:
    result = client.infer("things", pixels_of(RECTANGLE, BLACK), parameters={"explain": True})
    for text in texts(result, "explanation"):
        told = orjson.loads(text)
        assert (told["skips_nothing"], told["padding_ratio"]) == (True, 0.0)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"min_score": 2}, "parameter 'min_score': Input should be less than or equal to 1, got 2"),
        ({"min_score": "0.5"}, "parameter 'min_score': Input should be a valid number, got '0.5'"),
        ({"min_score": True}, "parameter 'min_score': Input should be a valid number, got True"),
        ({"top": 0}, "parameter 'top': Input should be greater than or equal to 1, got 0"),
        ({"top": 501}, "parameter 'top': Input should be less than or equal to 500, got 501"),
        ({"top": 1.5}, "parameter 'top': Input should be a valid integer, got 1.5"),
        ({"top": [[*range(99)]]}, "parameter 'top': Input should be a valid integer, got [[0, 1,"),
        ({"operating_point": "tiny"}, "unknown operating point 'tiny'"),
        ({"explain": 1}, "parameter 'explain' must be true or false"),
    ],
)
def test_wrong_parameters_are_refused(
    client: triton.InferenceServerClient, parameters: dict[str, Any], says: str
) -> None:
    refused = refusal(client, pixels_of(BLACK), parameters=parameters)
    assert refused.status() == "400"
    assert says in refused.message()


def test_a_value_nested_a_thousand_deep_is_refused(served: Live) -> None:
    """The client's library could not write it."""
    nested = b'{"inputs": [%b], "parameters": {"top": %b}}' % (
        orjson.dumps(pixels_of(BLACK, binary=False)[0]._get_tensor()),
        b"[" * 1000 + b"]" * 1000,
    )
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        answer = client._post("v2/models/things/infer", nested, {}, None)
        assert answer.status_code == 400
        assert b"parameter 'top': Input should be a valid integer, got something nested" in (
            answer.read()
        )


def test_wrong_tensors_files_and_outputs_are_refused(
    client: triton.InferenceServerClient,
) -> None:
    floats = triton.InferInput("image", [1, 3, SIZE, SIZE], "FP32")
    floats.set_data_from_numpy(np.zeros((1, 3, SIZE, SIZE), np.float32))
    whole = encoded(scene(64, 64))
    for inputs, says in (
        ([floats], "send 'image' UINT8 [-1, 512, 512, 3] (RGB pixels) or 'image_bytes'"),
        (pixels_of(BLACK[:256, :256]), "send 'image' UINT8 [-1, 512, 512, 3]"),
        (files_of(whole, whole[:-40]), "PNG image"),
        (files_of(b"GIF89a" + bytes(20)), "got a GIF image"),
        (files_of(b""), "the image is empty"),
    ):
        assert says in refusal(client, inputs).message()
    other = refusal(client, pixels_of(BLACK), outputs=outputs_of("probabilities", binary=True))
    assert "there are: counts, boxes, scores, labels, masks, point, explanation" in other.message()
    ranked = [triton.InferRequestedOutput("scores", class_count=2)]
    assert "this one finds objects" in refusal(client, pixels_of(BLACK), outputs=ranked).message()
    assert client.infer("things", pixels_of(BLACK)).as_numpy("counts").tolist() == [0]


def test_a_body_of_pixels_or_of_a_file_alone(served: Live) -> None:
    """A raw binary request: no JSON, one image."""
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        for body in (RECTANGLE.tobytes(), encoded(Image.fromarray(RECTANGLE))):
            answer = client._post(
                "v2/models/things/infer", body, {"Inference-Header-Content-Length": "0"}, None
            )
            length = int(answer.get("Inference-Header-Content-Length"))
            found = triton.InferResult.from_response_body(answer.read(), header_length=length)
            np.testing.assert_allclose(found.as_numpy("boxes")[0, 0], BOX)


def test_boxes_alone_have_no_masks() -> None:
    with (
        live(detector(BoxEngine())) as running,
        triton.InferenceServerClient(f"127.0.0.1:{running.port}") as client,
    ):
        names = [each["name"] for each in client.get_model_metadata("things")["outputs"]]
        assert names == ["counts", "boxes", "scores", "labels", "point"]
        result = client.infer("things", pixels_of(RECTANGLE))
        assert result.as_numpy("masks") is None
        np.testing.assert_allclose(result.as_numpy("boxes"), [[BOX]])
        refused = refusal(client, pixels_of(BLACK), outputs=outputs_of("masks", binary=True))
        assert "no output 'masks'; there are: counts, boxes" in refused.message()


@pytest.mark.parametrize("in_json", [False, True])
def test_a_run_of_perf_analyzer(served: Live, in_json: bool) -> None:
    noise = np.random.default_rng(0).bytes(2 * SIZE * SIZE * 3)
    with served.connect() as connection:
        tool = PerfAnalyzer(connection, "things", x_slo_ms="20000")
        name, outputs = tool.describe()
        before = tool.statistics()
        for _ in range(2):
            ask = tool.infer_json if in_json else tool.infer_binary
            answer = ask(name, outputs, noise)
            assert answer.status == 200
            length = int(answer.headers.get("inference-header-content-length", len(answer.body)))
            content = orjson.loads(answer.body[:length])
            assert [each["name"] for each in content["outputs"]] == outputs
            sizes = [e.get("parameters", {}).get("binary_data_size", 0) for e in content["outputs"]]
            assert sum(sizes) == len(answer.body) - length
            assert content["parameters"]["slo_ms"] == 20_000
        after = tool.statistics()
    assert after["inference_count"] - before["inference_count"] == 4
    gone = {n: c["count"] - before["inference_stats"][n]["count"]
            for n, c in after["inference_stats"].items()}  # fmt: skip
    assert gone["success"] == gone["compute_infer"] == 2
    assert gone["fail"] == 0


def refusal(
    client: triton.InferenceServerClient, inputs: list[triton.InferInput], **options: Any
) -> InferenceServerException:
    with pytest.raises(InferenceServerException) as refused:
        client.infer("things", inputs, **options)
    return refused.value
