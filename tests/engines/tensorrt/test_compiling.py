"""Kernels compile for devices that are not here, take what they may, and get our arguments."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="the kernels are Triton's: pip install '.[tensorrt]'")
onnx = pytest.importorskip("onnx")

from engines.architecture import MapSize
from engines.errors import EngineError, InvalidInput
from engines.export.onnx.operators import OPERATORS, WHOLE_MAP, function, plugin
from engines.tensorrt import compiling
from engines.tensorrt.compile_matrix import CASES, Row, main, sources, table
from engines.tensorrt.compiling import PTX_VERSIONS, compile_kernel
from engines.tensorrt.limits import MOST_SHARED_BYTES
from engines.tensorrt.spec import ConvSpec, DilateSpec, KernelSpec, PartitionSpec, Signature

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "results" / "tensorrt" / "compile-matrix.json"
FEW = (
    "partition",
    "1x1 64 to 256, patches of 8, residual",
    "3x3 within groups of 16 of 128, patches of 4",
    "1x1 from groups of 12 of 96 to 384, patches of 4, residual",
)
"""Compiled here for every device; the rest is in the committed table."""

# Of every operator that has a plugin, a specification.
SPECS: dict[str, KernelSpec] = {
    "partition": PartitionSpec(0),
    "dilate": DilateSpec("fp16", 4, 1),
    "block_conv": ConvSpec("fp16", 16, 16, patch=4),
    "block_conv_add": ConvSpec("fp16", 16, 16, patch=4, add=True),
    "block_conv_linear_add": ConvSpec("fp16", 16, 16, patch=4, add=True, relu=False),
    "conv_to_groups": ConvSpec("fp16", 16, 16, group=8, written=True),
    "conv_within_groups": ConvSpec("fp16", 16, 16, group=8, read=True, written=True),
    "conv_from_groups_add": ConvSpec("fp16", 16, 16, group=8, read=True, add=True),
    "block_conv_to_groups": ConvSpec("fp16", 16, 16, patch=4, group=8, written=True),
    "block_conv_within_groups": ConvSpec(
        "fp16", 16, 16, patch=4, group=8, read=True, written=True
    ),
    "block_conv_from_groups_add": ConvSpec(
        "fp16", 16, 16, patch=4, group=8, read=True, add=True
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled again, and nothing left in the home folder."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


def test_operators_and_kernels_have_the_same_inputs_in_the_same_order() -> None:
    assert {name for name in OPERATORS if plugin(name)} == SPECS.keys()
    for name, spec in SPECS.items():
        arguments = spec.signature(86).arguments
        pointers = [each.removesuffix("_ptr") for each in arguments if each.endswith("_ptr")]
        declared = function(name)
        assert pointers[: len(declared.input)] == list(declared.input)
        assert len(pointers) == len(declared.input) + len(declared.output)


def test_the_whole_map_is_the_same_patch_in_both() -> None:
    spec = ConvSpec("fp16", 16, 16, patch=WHOLE_MAP)
    assert spec.signature(86).constants["PATCH"] == 0
    assert spec.numbers(MapSize(56, 56))["num_units"] == 1


def test_arguments_are_in_the_kernels_order_with_outputs_last() -> None:
    for spec in (*SPECS.values(), *CASES.values()):
        signature = spec.signature(86)
        order = [
            name
            for name in compiling._KERNELS[signature.kernel].arg_names
            if name in signature.arguments
        ]
        assert order == list(signature.arguments)
        kinds = ["*" in kind for kind in signature.arguments.values()]
        first, last = kinds.index(False), len(kinds) - kinds[::-1].index(False)
        assert kinds[first:last] == [False] * (last - first), "numbers stand together"
        assert 0 < first < last < len(kinds)


def test_the_entry_has_our_arguments_and_no_other() -> None:
    spec = SPECS["block_conv_from_groups_add"]
    made = compile_kernel(spec, 86)
    entry = re.search(r"\.visible \.entry (\w+)\((.*?)\)", made.ptx, re.DOTALL)
    assert entry is not None
    kinds = [each.split()[1] for each in entry.group(2).strip().split(",\n")]
    wanted = [".u64" if "*" in kind else ".u32" for kind in spec.signature(86).arguments.values()]
    assert kinds == wanted
    assert entry.group(1) == made.entry == "sparse_conv"
    assert ".version 8.0" in made.ptx
    assert (made.arch, made.threads, made.tensor_cores) == ("sm_86", 128, True)


def test_every_device_has_room_for_the_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    """The gates: no spills from sm_80 on, at most 48 KB of shared memory."""
    arguments = [word for name in FEW for word in ("--only", name)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(FEW)
    assert lines[0].count("sm_") == len(PTX_VERSIONS)


def test_the_committed_table_is_of_these_kernels_and_passes() -> None:
    """Otherwise: .venv/bin/python -m engines.tensorrt.compile_matrix --json and the file's name."""
    content = json.loads(RESULTS.read_text("utf-8"))
    assert content["sources"] == sources(), "kernels have changed since the table was made"
    rows = [Row(**row) for row in content["rows"]]
    assert [(row.kernel, row.cc) for row in rows] == [
        (name, cc) for name in CASES for cc in PTX_VERSIONS
    ]
    assert not [fault for row in rows for fault in row.faults]
    assert table(rows) in (ROOT / "docs" / "tensorrt.md").read_text("utf-8")


def test_what_is_too_much() -> None:
    row = Row("k", "sm_86", 86, 128, 255, 16, MOST_SHARED_BYTES + 1, True)
    assert row.faults == [
        "k spills 16 bytes on sm_86",
        "k takes 49153 bytes of shared memory on sm_86, more than 49152",
    ]
    assert Row("k", "sm_75", 75, 128, 255, 16, MOST_SHARED_BYTES, False).faults == []


def test_a_kernel_that_takes_too_much_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("engines.tensorrt.limits.MOST_SHARED_BYTES", 64)
    assert main(["--sm", "86", "--only", "partition"]) == 1
    assert "more than 64" in capsys.readouterr().err


def test_what_cannot_be_compiled() -> None:
    with pytest.raises(InvalidInput, match="capability 70; there are: 75, 80"):
        compile_kernel(SPECS["partition"], 70)


def test_parameters_of_tritons_own_are_dropped_only_where_nobody_reads_them() -> None:
    signature = Signature("partition", {"a": "*i32"}, {}, 4, 1)
    head = ".visible .entry partition(\n\t.param .u64 p_0,\n\t.param .u64 p_1\n)\n{{{}}}"
    ptx, entry = compiling._own_parameters(head.format("ld p_0;"), signature)
    assert (ptx, entry) == (
        ".visible .entry partition(\n\t.param .u64 p_0\n)\n{ld p_0;}",
        "partition",
    )
    with pytest.raises(EngineError, match="reads the parameter p_1"):
        compiling._own_parameters(head.format("ld p_1;"), signature)
    with pytest.raises(EngineError, match="PTX has 2 parameters"):
        compiling._own_parameters(
            head.format(""), Signature("partition", dict.fromkeys("abc", "*i32"), {}, 4, 1)
        )


def test_what_the_assembler_refuses_is_told() -> None:
    with pytest.raises(EngineError, match="the assembler refuses a kernel for sm_86"):
        compiling._assembled("nonsense", "sm_86", 86)
