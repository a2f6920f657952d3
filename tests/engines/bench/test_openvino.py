"""OpenVINO computes the same function as our network, so that a comparison of times is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ov = pytest.importorskip("openvino")
pytest.importorskip("nncf")

from engines.bench.openvino_baseline import openvino_at_its_best
from engines.bench.openvino_graph import static_network
from engines.bench.openvino_int8 import PRESETS, quantised
from engines.bench.own_engine import batches
from engines.bench.pictures import MadeUpPictures
from engines.bundle import Bundle
from engines.core import static_point
from engines.errors import BundleError
from engines.reference.engine import ReferenceEngine
from tests.engines.cpu.cases import BGR, RGB, bundle, net_of, pictures

pytestmark = [
    pytest.mark.torch,
    # What NNCF and OpenVINO warn of among themselves is theirs to mend.
    pytest.mark.filterwarnings("ignore"),
]


def probabilities(model: Any, images: Any) -> Any:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([compiled(image[None])[0] for image in images])


def expected(source: Bundle, images: Any) -> Any:
    size, maskers = images.shape[1], len(source.manifest.architecture.maskers)
    with ReferenceEngine.from_bundle(source) as engine:
        point = static_point("full", size, maskers)
        return engine.infer(images, [point] * len(images)).arrays["probabilities"]


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("preprocessing", [RGB, BGR], ids=["rgb", "bgr"])
@pytest.mark.parametrize(
    "options",
    [{}, {"stem_pool": "trailing"}, {"stride_in_1x1": True}],
    ids=["plain", "trailing pool", "stride in 1x1"],
)
def test_graph_answers_as_the_reference_does(
    options: dict[str, Any], preprocessing: Any, size: int
) -> None:
    source = bundle(net_of(**options), preprocessing=preprocessing)
    images = pictures(2, size)
    wanted = expected(source, images)
    assert wanted.std() > 0.01
    found = probabilities(static_network(source, size), images)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_graph_pools_a_map_of_one_pixel_as_the_reference_does() -> None:
    source = bundle(net_of(stem_pool="trailing"))
    images = pictures(1, 2)
    found = probabilities(static_network(source, 2), images)
    np.testing.assert_allclose(found, expected(source, images), rtol=0, atol=1e-4)


def test_tensors_that_do_not_fit_are_refused() -> None:
    source = bundle()
    weights = {name: value for name, value in source.weights.items() if name != "fc.bias"}
    with pytest.raises(BundleError, match=r"missing: fc\.bias"):
        static_network(bundle(weights=weights), 32)


def test_quantised_network_is_kept_where_asked_and_found_again(tmp_path: Path) -> None:
    source, images, said = bundle(), MadeUpPictures(0, 8), list[str]()
    floating = static_network(source, 32)
    core = ov.Core()
    cache = tmp_path / "new" / "cache"
    made = quantised(core, floating, source, images, "mixed", cache, said.append)
    assert "FakeQuantize" in {node.get_type_name() for node in made.get_ops()}
    kept = quantised(core, floating, source, images, "mixed", cache, said.append)
    assert "calibrating on 8 made-up pictures" in said[0]
    assert said[1].startswith("int8 (mixed): taken from")
    assert np.array_equal(
        probabilities(made, images.at(32)[:2]), probabilities(kept, images.at(32)[:2])
    )
    assert {path.suffix for path in cache.iterdir()} == {".xml", ".bin"}
    quantised(core, floating, source, MadeUpPictures(1, 8), "mixed", cache, said.append)
    assert "calibrating" in said[2]


def test_every_form_is_tried_and_the_fastest_is_the_best() -> None:
    source, images = bundle(), MadeUpPictures(0, 8)
    inputs = batches(images.at(32), 2, 3)
    found = openvino_at_its_best(source, images, inputs, precision="fp32", threads=1)
    tried = found.made.candidates
    forms = {(form.precision, form.preset) for form in tried}
    assert forms >= {("fp32", None), *(("int8", preset) for preset in PRESETS)}
    assert found.made.best.ms == min(form.ms for form in tried)
    assert found.made.same.precision == "fp32"
    assert found.made.properties == {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": "1",
    }
    for draw, batch in enumerate(inputs):
        found.same.load(draw)
        np.testing.assert_allclose(found.same.run(), expected(source, batch), rtol=0, atol=1e-4)
