"""Where settings come from, which source wins, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import SettingsError
from service.objectives import SloClass
from service.settings import Settings, load_settings


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_safe() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert settings.host == "127.0.0.1"
    assert settings.max_body_bytes == 10 * 2**20
    assert settings.max_pixels == 40_000_000


def test_options_outrank_the_environment_which_outranks_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = yaml_file(tmp_path, "port: 1\nhost: file\nmax_queue: 7\n")
    monkeypatch.setenv("LAUD_PORT", "2")
    monkeypatch.setenv("LAUD_HOST", "environment")
    settings = load_settings(path, {"port": 3})
    assert (settings.port, settings.host, settings.max_queue) == (3, "environment", 7)


def test_options_that_were_not_given_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUD_PORT", "2")
    assert load_settings(options={"port": None}).port == 2


def test_bundles_are_a_list_in_the_file_and_commas_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = yaml_file(tmp_path, "bundles: [zoo:a, b.laud]\n")
    assert load_settings(path).bundles == ("zoo:a", "b.laud")
    monkeypatch.setenv("LAUD_BUNDLES", "zoo:c, d.laud,")
    assert load_settings(path).bundles == ("zoo:c", "d.laud")


def test_unknown_key_in_the_file_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "max_body_byte: 5\n")
    with pytest.raises(SettingsError) as refused:
        load_settings(path)
    assert f"unknown key 'max_body_byte' in {path}" in str(refused.value)
    assert "did you mean 'max_body_bytes'?" in str(refused.value)


def test_unknown_variable_is_refused_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUD_MAX_BODY_BYTE", "5")
    with pytest.raises(SettingsError, match=r"'LAUD_MAX_BODY_BYTE' in the environment.*BYTES'\?"):
        load_settings()


def test_a_key_like_no_other_is_refused_with_all_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'zzz' .*known: bundles, host, port"):
        load_settings(yaml_file(tmp_path, "zzz: 1\n"))


def test_the_native_engine_is_the_default_and_chooses_for_itself() -> None:
    settings = load_settings()
    assert (settings.engine, settings.precision, settings.threads) == ("cpu", None, None)


def test_the_variable_that_forces_an_instruction_set_is_the_engines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAUD_CPU_ISA", "baseline")
    assert load_settings() == Settings()


def test_other_programs_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUDATORY", "yes")
    monkeypatch.setenv("LAUD_CONFIG", "read by the command, not here")
    assert load_settings() == Settings()


def test_wrong_values_are_named_with_where_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = yaml_file(tmp_path, "max_batch: 65\n")
    monkeypatch.setenv("LAUD_DRAIN_S", "soon")
    with pytest.raises(SettingsError) as refused:
        load_settings(path, {"port": 70_000, "threads": 0})
    message = str(refused.value)
    for part in (
        f"'max_batch' in {path}: ",
        "got 65",
        "LAUD_DRAIN_S in the environment: ",
        "got 'soon'",
        "option --port: ",
        "got 70000",
        "option --threads: ",
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_batch": 0},
        {"max_queue": 0},
        {"max_images": 0},
        {"max_body_bytes": 0},
        {"decode_threads": 0},
        {"port": -1},
        {"threads": 0},
        {"engine": "warp"},
        {"precision": "fp8"},
        {"drain_s": 0},
        {"drain_s": float("inf")},
        {"drain_s": float("nan")},
        {"log_format": "xml"},
        {"log_level": "loud"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_impossible_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_classes_come_from_the_file(tmp_path: Path) -> None:
    text = """
slo_classes:
  fast: {slo_ms: 25, min_accuracy: 0.8, on_infeasible: reject}
  batch: {slo_ms: 5000}
default_class: batch
"""
    settings = load_settings(yaml_file(tmp_path, text))
    assert settings.slo_classes == {
        "fast": SloClass(slo_ms=25.0, min_accuracy=0.8, on_infeasible="reject"),
        "batch": SloClass(slo_ms=5000.0),
    }
    assert settings.default_slo == ("batch", SloClass(slo_ms=5000.0))


def test_classes_are_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUD_SLO_CLASSES", '{"fast": {"slo_ms": 25}}')
    assert load_settings().slo_classes == {"fast": SloClass(slo_ms=25.0)}


def test_a_class_named_default_is_the_default_unless_another_is_named() -> None:
    classes = {"default": SloClass(slo_ms=50.0), "fast": SloClass(slo_ms=10.0)}
    assert Settings(slo_classes=classes).default_slo == ("default", classes["default"])
    named = Settings(slo_classes=classes, default_class="fast")
    assert named.default_slo == ("fast", classes["fast"])


def test_without_a_default_class_the_machine_decides() -> None:
    assert Settings().default_slo is None
    assert Settings(slo_classes={"fast": SloClass(slo_ms=10.0)}).default_slo is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slo_classes: {fast: {slo_ms: 0}}", ": fast.slo_ms: Input should be greater than or eq"),
        ("slo_classes: {fast: {slo_ms: .nan}}", ": fast.slo_ms: Input should be a finite number"),
        ("slo_classes: {fast: {slo_ms: '5'}}", ": fast.slo_ms: Input should be a valid number, go"),
        ("slo_classes: {fast: {}}", ": fast.slo_ms: Field required"),
        ("slo_classes: {fast: 25}", ": fast: Input should be a valid dictionary"),
        ("slo_classes: {fast: {slo_ms: 5, slo: 1}}", ": fast.slo: Extra inputs are not permitted"),
        ("slo_classes: {Fast: {slo_ms: 5}}", ": Fast: String should match pattern"),
        ("slo_classes: {custom: {slo_ms: 5}}", ": 'custom' is what requests with a time of their"),
        ("slo_classes: [fast]", ": Input should be a valid dictionary"),
    ],
)
def test_a_class_that_is_wrong_is_named_by_its_key(tmp_path: Path, text: str, message: str) -> None:
    path = yaml_file(tmp_path, text)
    with pytest.raises(SettingsError) as refused:
        load_settings(path)
    assert f"'slo_classes' in {path}{message}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_too_many_classes_are_refused() -> None:
    classes = {f"class-{i}": SloClass(slo_ms=5.0) for i in range(17)}
    with pytest.raises(ValidationError, match="at most 16"):
        Settings(slo_classes=classes)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ('{"fast": {"slo_ms": 5}}', "LAUD_DEFAULT_CLASS in the environment: there are: fast, got"),
        ("{}", "LAUD_DEFAULT_CLASS in the environment: there are no slo_classes to name one of"),
    ],
)
def test_a_default_class_that_there_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, classes: str, message: str
) -> None:
    monkeypatch.setenv("LAUD_SLO_CLASSES", classes)
    monkeypatch.setenv("LAUD_DEFAULT_CLASS", "slow")
    with pytest.raises(SettingsError, match=message):
        load_settings()


@pytest.mark.parametrize("text", ['{"fast":', "fast=25", "", "[" * 100_000], ids=range(4))
def test_classes_that_are_no_json_are_refused_with_an_example(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("LAUD_SLO_CLASSES", text)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert str(refused.value).startswith(
        'LAUD_SLO_CLASSES in the environment: must be JSON, for example {"fast": {"slo_ms": 50}}'
    )


def test_settings_do_not_change() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.port = 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("port: [1", "is not YAML"),
        ("- a\n- b\n", "must hold 'key: value' lines, got list"),
        ("just words", "must hold 'key: value' lines, got str"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_in_one_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(SettingsError, match=reason) as refused:
        load_settings(yaml_file(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_a_missing_or_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the configuration .*No such file"):
        load_settings(tmp_path / "absent.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(SettingsError, match="is not YAML"):
        load_settings(tmp_path / "bytes.yaml")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_settings(yaml_file(tmp_path, "# nothing yet\n")) == Settings()
