"""`laud export`: which of its options go together, and what it makes of a run or of a bundle."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engines.bundle import Bundle, read_bundle
from tests.service.commands import Laud, assert_one_line
from tests.service.process import bundle_in


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return read_bundle(bundle_in(tmp_path))


@pytest.fixture
def asked(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, dict[str, Any]]]:
    """What was asked of the modules that do the work, in place of doing it."""
    calls: list[tuple[str, Any, dict[str, Any]]] = []
    for name, function in [
        ("run", "export"),
        ("int8", "quantise_bundle"),
        ("redial", "redial"),
    ]:
        module = ModuleType(f"engines.export.{name}")

        def remember(source: Any, out: Path, *, _name: str = name, **options: Any) -> Bundle:
            options.pop("say")
            calls.append((_name, source, {"out": out, **options}))
            points = bundle.manifest.points
            manifest = bundle.manifest.model_copy(update={"points": points})
            # The command shows the int8 points of a bundle that has them.
            object.__setattr__(manifest, "at", lambda precision: manifest)
            return Bundle(out, manifest, bundle.hash, bundle.weights)

        setattr(module, function, remember)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


Calls = list[tuple[str, Any, dict[str, Any]]]


def test_a_run_becomes_a_bundle(laud: Laud, asked: Calls) -> None:
    assert laud("export", "runs/demo", "-o", "new.laud", "--data", "pictures").status == 0
    out = Path("new.laud")
    ((name, source, rest),) = asked
    assert (name, source) == ("run", Path("runs/demo"))
    assert rest == {
        "out": out,
        "data": Path("pictures"),
        "calibration": None,
        "all_points": False,
    }


def test_every_point_can_be_kept(laud: Laud, asked: Calls) -> None:
    assert laud("export", "runs/demo", "-o", "new.laud", "--all-points").status == 0
    assert asked[0][2]["all_points"] is True


def test_points_of_a_bundle_stay_without_being_asked(laud: Laud, asked: Calls) -> None:
    options = ("--all-points", "--int8", "--calibrate", "some")
    done = laud("export", "zoo:clothing", "-o", "new.laud", *options)
    assert "is a bundle: its points stay without --all-points" in assert_one_line(done)
    assert not asked


def test_a_run_gets_int8_scales_on_the_way(laud: Laud, asked: Calls) -> None:
    options = ("--int8", "--calibrate", "some")
    assert laud("export", "runs/demo", "-o", "new.laud", *options).status == 0
    ((name, source, rest),) = asked
    assert (name, source) == ("run", Path("runs/demo"))
    assert rest == {
        "out": Path("new.laud"),
        "data": None,
        "calibration": Path("some"),
        "all_points": False,
    }


@pytest.mark.parametrize("zoo", [True, False])
def test_a_bundle_gets_int8_scales(laud: Laud, asked: Calls, bundle: Bundle, zoo: bool) -> None:
    source = "zoo:clothing" if zoo else str(bundle.path)
    options = ("--int8", "--calibrate", "some")
    assert laud("export", source, "-o", "new.laud", *options).status == 0
    ((name, found, rest),) = asked
    assert (name, found) == ("int8", source)
    assert rest == {"out": Path("new.laud"), "data": None, "calibration": Path("some")}


def test_a_bundle_gets_points_for_this_machine(laud: Laud, asked: Calls, bundle: Bundle) -> None:
    done = laud("export", str(bundle.path), "-o", "new.laud", "--dial", "--data", "pictures")
    assert done.status == 0
    ((name, source, rest),) = asked
    assert (name, source) == ("redial", str(bundle.path))
    assert rest == {"out": Path("new.laud"), "data": Path("pictures"), "calibration": None}


@pytest.mark.parametrize(
    ("source", "options", "reason"),
    [
        ("zoo:clothing", ["--dial"], "--dial needs --data DIR"),
        ("runs/demo", ["--dial", "--data", "x"], "a run's points are chosen without --dial"),
    ],
)
def test_a_dial_needs_a_bundle_and_pictures(
    laud: Laud, asked: Calls, source: str, options: list[str], reason: str
) -> None:
    done = laud("export", source, "-o", "new.laud", *options)
    assert done.status == 2
    assert reason in assert_one_line(done)
    assert not asked


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--int8"], "--int8 needs --calibrate DIR"),
        (["--calibrate", "some"], "--calibrate is for int8 scales: give --int8 too"),
    ],
)
def test_options_that_need_each_other(
    laud: Laud, asked: Calls, options: list[str], reason: str
) -> None:
    done = laud("export", "runs/demo", "-o", "new.laud", *options)
    assert done.status == 2
    assert reason in done.err
    assert_one_line(done)
    assert not asked


def test_a_bundle_is_not_exported_again_as_it_is(laud: Laud, asked: Calls, bundle: Bundle) -> None:
    done = laud("export", str(bundle.path), "-o", "new.laud")
    assert done.status == 2
    assert "is a bundle already; with --int8 --calibrate DIR it gets int8 scales" in done.err
    assert not asked


def test_a_folder_that_was_a_bundle_is_no_run(laud: Laud, asked: Calls, bundle: Bundle) -> None:
    """What it holds decides, not its name: only a folder with a manifest is a bundle."""
    shutil.copytree(bundle.path, bundle.path.parent / "run")
    (bundle.path.parent / "run" / "manifest.json").unlink()
    assert laud("export", str(bundle.path.parent / "run"), "-o", "new.laud").status == 0
    assert asked[0][0] == "run"


def test_without_torch_it_says_how_to_install_it(
    laud: Laud, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("engines.export", "torch"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    done = laud("export", str(bundle.path), "-o", "new.laud", "--int8", "--calibrate", "some")
    line = assert_one_line(done)
    assert "this command needs torch" in line
    assert "pip install -c constraints.txt '.[train]'" in line


# As ONNX


def test_a_bundle_is_written_as_onnx(laud: Laud, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    out = tmp_path / "demo.onnx"
    done = laud("export", "zoo:clothing", "--onnx", "--precision", "fp16", "-o", str(out))
    assert done.status == 0
    assert "full" in done.out
    hash = read_bundle("zoo:clothing").hash[:12]
    operators, wrote = done.err.splitlines()
    assert operators.startswith("operators that skip: ")
    assert "16 partition" in operators
    assert wrote == f"wrote {out} (fp16, of {hash})"
    assert out.stat().st_size > 10_000_000


def test_a_mask_head_is_written_beside_it(laud: Laud, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    out = tmp_path / "nuclei.onnx"
    done = laud("export", "zoo:nuclei", "--onnx", "-o", str(out))
    assert done.status == 0
    beside = tmp_path / "nuclei-masks.onnx"
    hash = read_bundle("zoo:nuclei").hash[:12]
    assert done.err.splitlines()[1:] == [
        f"wrote {path} (fp32, of {hash})" for path in (out, beside)
    ]
    assert beside.stat().st_size < out.stat().st_size / 10


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--onnx", "--int8"], "--onnx measures nothing: it goes without --int8"),
        (["--onnx", "--calibrate", "some"], "goes without --calibrate"),
        (["--onnx", "--data", "some"], "goes without --data"),
        (["--onnx", "--all-points"], "goes without --all-points"),
        (["--onnx", "--precision", "int8"], "there are: fp32, fp16"),
        (["--onnx", "-o", "new.laud"], "an ONNX file's name ends in .onnx, got 'new.laud'"),
        (["--precision", "fp16"], "--precision is of an ONNX network: give --onnx too"),
        (["--one-image"], "--one-image is of an ONNX network: give --onnx too"),
    ],
)
def test_options_that_do_not_go_with_onnx(laud: Laud, options: list[str], reason: str) -> None:
    pytest.importorskip("onnx")
    done = laud("export", "zoo:clothing", "-o", "new.onnx", *options)
    assert reason in assert_one_line(done)
    assert not Path("new.onnx").exists()


def test_a_run_is_made_a_bundle_before_it_is_onnx(laud: Laud, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "run.json").write_text("{}")
    done = laud("export", str(tmp_path), "--onnx", "-o", str(tmp_path / "new.onnx"))
    assert "is the folder of a training run; make a bundle of it" in assert_one_line(done)


def test_without_onnx_it_says_how_to_install_it(
    laud: Laud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("engines.export.onnx", "onnx"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    done = laud("export", "zoo:clothing", "--onnx", "-o", "new.onnx")
    line = assert_one_line(done)
    assert "this command needs onnx" in line
    assert "pip install -c constraints.txt '.[onnx]'" in line
