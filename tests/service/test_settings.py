"""Where settings come from, which source wins, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import SettingsError
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
