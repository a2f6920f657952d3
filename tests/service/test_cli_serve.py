"""`laud serve`: what its options become, and what its help teaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings
from tests.service.commands import Laud


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of every server that would have been started, in place of starting it."""
    started: list[Settings] = []
    monkeypatch.setattr("service.server.run", started.append)
    monkeypatch.setattr("service.logs.configure_logs", lambda style, level: None)
    return started


def test_access_is_set_by_options(laud: Laud, served: list[Settings]) -> None:
    access = ("--api-keys", "keys.yaml", "--tls-certificate", "c.pem", "--tls-key", "k.pem")
    admin = ("--admin-port", "9", "--admin-host", "::1")
    assert laud("serve", "zoo:a", *access, *admin).status == 0
    (settings,) = served
    assert settings.api_keys == Path("keys.yaml")
    assert (settings.tls_certificate, settings.tls_key) == (Path("c.pem"), Path("k.pem"))
    assert (settings.admin_port, settings.admin_host) == (9, "::1")


def test_scheduling_is_set_by_options(laud: Laud, served: list[Settings], tmp_path: Path) -> None:
    config = tmp_path / "laud.yaml"
    config.write_text("slo_classes: {fast: {slo_ms: 20}, slow: {slo_ms: 500}}\n", "utf-8")
    options = ("--max-batch", "4", "--default-class", "slow")
    assert laud("serve", "zoo:a", "--config", config, *options).status == 0
    (settings,) = served
    assert (settings.max_batch, settings.default_class) == (4, "slow")


def test_lists_in_the_environment_have_commas(
    laud: Laud, served: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUD_CORS_ORIGINS", "https://a.example, https://b.example")
    monkeypatch.setenv("LAUD_LATENCY_TABLES", "one.json,two.json")
    assert laud("serve", "zoo:a").status == 0
    (settings,) = served
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.latency_tables == (Path("one.json"), Path("two.json"))


def test_nothing_is_reachable_from_elsewhere_unless_asked_for(
    laud: Laud, served: list[Settings]
) -> None:
    assert laud("serve", "zoo:a").status == 0
    (settings,) = served
    assert settings.host == "127.0.0.1"
    assert settings.admin_port is None
    assert settings.cors_origins == ()


@pytest.mark.parametrize(
    "taught",
    ["x-slo-ms", "slo_classes:", "--api-keys", "laud keys add", "SIGTERM", "LAUD_MAX_BODY_BYTES"],
)
def test_the_help_teaches(laud: Laud, taught: str) -> None:
    assert taught in laud("serve", "--help").out
