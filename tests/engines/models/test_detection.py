from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from torch import Tensor, nn

from engines.architecture import MapSize, ResNet
from engines.detection.architecture import (
    MOST_DETECTIONS,
    Detector,
    detector_macs,
    pyramid_sizes,
)
from engines.errors import InvalidInput
from engines.models.detection import DenseOutputs, LaudDetector, boxes_of
from engines.models.open_nsfw import open_nsfw_resnet
from tests.engines.detection.networks import DETECTOR, NET

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def model() -> LaudDetector:
    torch.manual_seed(0)
    return LaudDetector(NET, DETECTOR).eval()


def test_dense_half_is_plain_convolutions(model: LaudDetector) -> None:
    kinds = {
        type(m)
        for m in model.dense.modules()
        if next(m.parameters(recurse=False), None) is not None
    }
    assert kinds == {nn.Conv2d}
    for name, parameter in model.dense.named_parameters():
        assert "fc" not in name
        assert parameter.dim() in (1, 4)


def test_places_are_those_of_all_levels(model: LaudDetector) -> None:
    with torch.no_grad():
        outputs, masks = model.dense(torch.zeros(2, 3, 64, 96))
    sizes = pyramid_sizes(NET, MapSize(64, 96))
    assert [(s.height, s.width) for s in sizes] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    places = sum(size.area for size in sizes)
    assert outputs.logits.shape == (2, places, 1)
    assert outputs.distances.shape == (2, places, 4)
    assert (outputs.distances > 0).all()
    assert masks == []
    squares = model.instances.places(outputs, 64, 96)
    assert squares.shape == (places, 4)
    assert squares[1].tolist() == [3, -1, 5, 1]
    assert squares[-1].tolist() == [64 - 8, 32 - 8, 64 + 8, 32 + 8]


def _outputs(model: LaudDetector, size: int = 64) -> DenseOutputs:
    with torch.no_grad():
        outputs: DenseOutputs = model.dense(torch.zeros(1, 3, size, size))[0]
    return outputs


def _answer(model: LaudDetector, wanted: list[list[float]]) -> DenseOutputs:
    """Dense answers that mean these boxes, each told by the place nearest to its centre."""
    blank = _outputs(model)
    places = model.instances.places(blank, 64, 64)
    logits = torch.full_like(blank.logits, -20.0)
    distances = torch.zeros_like(blank.distances)
    centres = (places[:, :2] + places[:, 2:]) / 2
    for i, box in enumerate(torch.tensor(wanted)):
        at = (centres - (box[:2] + box[2:]) / 2).square().sum(dim=1)[:256].argmin()
        logits[0, at] = 5.0 - i
        sides = torch.cat((centres[at] - box[:2], box[2:] - centres[at]))
        distances[0, at] = sides / (places[at, 2] - places[at, 0])
    return DenseOutputs(blank.features, logits, distances, torch.full_like(blank.centres, 9.0))


def test_boxes_are_read_off_their_places(model: LaudDetector) -> None:
    wanted = [[4.0, 6.0, 20.0, 22.0], [30.0, 30.0, 44.0, 60.0]]
    (found,) = model.instances.choose(_answer(model, wanted), 64, 64)
    assert torch.allclose(found.boxes, torch.tensor(wanted), atol=1e-4)
    assert found.labels.tolist() == [0, 0]
    assert found.scores[0] > found.scores[1] > 0.9


def test_overlapping_boxes_are_one_object(model: LaudDetector) -> None:
    wanted = [[4.0, 4.0, 24.0, 24.0], [8.0, 4.0, 28.0, 24.0], [14.0, 4.0, 34.0, 24.0]]
    (found,) = model.instances.choose(_answer(model, wanted), 64, 64)
    # The second overlaps the first by two thirds, the third by a third.
    assert torch.allclose(found.boxes, torch.tensor([wanted[0], wanted[2]]), atol=1e-4)


def test_nothing_likely_is_nothing_found(model: LaudDetector) -> None:
    outputs = _answer(model, [])
    (found,) = model.instances.choose(outputs, 64, 64)
    assert found.boxes.shape == (0, 4)
    logits = model.instances.mask_logits(outputs.features, [found.boxes], 64, 64)
    assert logits.shape == (0, 28, 28)


def test_five_hundred_at_most_and_as_many_as_there_are(model: LaudDetector) -> None:
    outputs = _outputs(model, 128)
    small = DenseOutputs(
        outputs.features,
        torch.full_like(outputs.logits, 3.0),
        torch.full_like(outputs.distances, 0.9),
        torch.full_like(outputs.centres, 3.0),
    )
    (found,) = model.instances.choose(small, 128, 128)
    assert len(found.boxes) == MOST_DETECTIONS
    assert (found.boxes >= 0).all()
    assert (found.boxes <= 128).all()


def test_a_mask_depends_on_its_own_box_alone(model: LaudDetector) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        features = model.dense(torch.randn(2, 3, 64, 64))[0].features
        boxes = torch.tensor([[4.0, 4.0, 20.0, 20.0], [30.0, 10.0, 60.0, 50.0]])
        both = model.instances.mask_logits(features, [boxes, boxes[:1]], 64, 64)
        second = model.instances.mask_logits([f[1:] for f in features], [boxes[:1]], 64, 64)
    assert both.shape == (3, 28, 28)
    assert torch.allclose(both[2], second[0], atol=1e-5)
    assert not torch.allclose(both[0], both[2], atol=1e-3)


@pytest.mark.parametrize(
    ("net", "detector", "size"),
    [
        (NET, DETECTOR, 64),
        (NET.model_copy(update={"num_classes": 3}), Detector(width=16, roi_size=5), 96),
    ],
)
def test_macs_are_those_of_the_convolutions(net: ResNet, detector: Detector, size: int) -> None:
    model = LaudDetector(net, detector)
    counted: dict[str, int] = {"body": 0, "fpn": 0, "head": 0, "mask": 0}

    def count(name: str, layer: nn.Conv2d | nn.ConvTranspose2d) -> object:
        def hook(module: nn.Module, given: object, out: Tensor) -> None:
            if isinstance(layer, nn.ConvTranspose2d):
                per = layer.weight.numel() * out[:, 0].numel() // 4
                counted[name] += per
            else:
                counted[name] += layer.weight.numel() * out[:, 0].numel()

        return layer.register_forward_hook(hook)

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            part = name.split(".")[1]
            count(part if part in counted else "mask", layer)
    with torch.no_grad():
        outputs, _ = model.dense(torch.zeros(1, 3, size, size))
        boxes = [torch.tensor([[1.0, 1.0, 9.0, 9.0]])]
        model.instances.mask_logits(outputs.features, boxes, size, size)
    macs = detector_macs(net, detector, MapSize(size, size))
    pool = 9 * net.stem_width * net.stem_sizes(MapSize(size, size))[1].area
    assert macs.backbone == counted["body"] + pool
    assert macs.pyramid == counted["fpn"]
    assert macs.heads == counted["head"]
    assert macs.per_object == counted["mask"]
    assert macs.dense == macs.backbone + macs.pyramid + macs.heads
    assert "each object" in macs.lines()[-1]


def test_without_masks_there_is_no_mask_head() -> None:
    plain = Detector(width=8, masks=False)
    assert not [n for n, _ in LaudDetector(NET, plain).named_parameters() if "instances" in n]
    assert detector_macs(NET, plain, MapSize(64, 64)).per_object == 0


def test_the_pretrained_backbone_is_one_of_four_stages() -> None:
    macs = detector_macs(open_nsfw_resnet(num_classes=1), Detector(), MapSize(512, 512))
    assert 5.4e9 < macs.backbone < 5.7e9
    assert macs.dense < 11e9


def test_other_backbones_are_refused() -> None:
    with pytest.raises(InvalidInput, match="4 stages"):
        LaudDetector(NET.model_copy(update={"stages": NET.stages[:2]}), DETECTOR)
    with pytest.raises(InvalidInput, match="folded"):
        LaudDetector(NET.model_copy(update={"folded": False}), DETECTOR)


def test_distances_are_in_units_of_their_level() -> None:
    places = torch.tensor([[6.0, 6.0, 10.0, 10.0]])
    box = boxes_of(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), places)
    assert box.tolist() == [[4.0, 0.0, 10.0, 8.0]]
