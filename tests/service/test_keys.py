"""API keys: the file that knows them, and who a key belongs to."""

from __future__ import annotations

import datetime
import os
import stat
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from service.errors import SettingsError
from service.keys import KeyFile, Keyring, new_key, read_keys, write_keys
from tests.service.commands import Laud

TODAY = datetime.date(2026, 1, 2)
HASH = "0" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_keys_are_long_different_and_recognisable() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("laud_") and len(key) == len("laud_") + 43 for key in keys)


def test_the_file_keeps_no_key_and_its_owner_alone_reads_it(path: Path) -> None:
    key = new_key()
    write_keys(path, KeyFile().with_key("alice", key, TODAY))
    assert key not in path.read_text("utf-8")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [record.name for record in read_keys(path).keys] == ["alice"]
    assert os.listdir(path.parent) == [path.name]


def test_a_key_belongs_to_who_it_was_made_for(path: Path) -> None:
    alice, bob = new_key(), new_key()
    write_keys(path, KeyFile().with_key("alice", alice, TODAY).with_key("bob", bob, TODAY))
    ring = Keyring(path)
    assert (ring.owner(alice), ring.owner(bob)) == ("alice", "bob")
    for wrong in ("", "laud_", alice[:-1], alice + "a", alice.upper(), "é", "\udc80"):
        assert ring.owner(wrong) is None


def test_a_file_that_changed_counts_once_it_is_read_again(path: Path) -> None:
    alice, bob = new_key(), new_key()
    write_keys(path, KeyFile().with_key("alice", alice, TODAY))
    ring = Keyring(path)
    write_keys(path, KeyFile().with_key("bob", bob, TODAY))
    assert ring.owner(alice) == "alice"
    ring.reload()
    assert (ring.owner(alice), ring.owner(bob)) == (None, "bob")
    path.write_text("nonsense", "utf-8")
    with pytest.raises(SettingsError):
        ring.reload()
    assert ring.owner(bob) == "bob"


def test_no_keys_let_nobody_in(path: Path) -> None:
    write_keys(path, KeyFile())
    assert Keyring(path).owner(new_key()) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_file_that_others_may_read_or_change_is_warned_of(
    path: Path, mode: int, logged: list[MutableMapping[str, Any]]
) -> None:
    write_keys(path, KeyFile())
    read_keys(path)
    assert logged == []
    path.chmod(mode)
    read_keys(path)
    (line,) = logged
    assert line["log_level"] == "warning"
    assert line["remedy"] == f"chmod 600 {path}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("keys: [", "is not YAML"),
        ("words", "is not a key file: the file: "),
        ("- a", "is not a key file"),
        ("version: 2", "version: Input should be 1"),
        ("keyz: []", "keyz: Extra inputs"),
        ("keys: [{name: a}]", "keys.0.sha256: Field required"),
        (f"keys: [{{name: a b, sha256: '{HASH}', created: 2026-01-02}}]", "keys.0.name"),
        ("keys: [{name: a, sha256: xyz, created: 2026-01-02}]", "keys.0.sha256"),
        (
            f"keys: [{{name: a, sha256: '{HASH}', created: 2026-01-02}}, "
            f"{{name: a, sha256: '{HASH}', created: 2026-01-02}}]",
            "two keys of one name",
        ),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(path: Path, text: str, reason: str) -> None:
    path.write_text(text, "utf-8")
    with pytest.raises(SettingsError, match=reason) as refused:
        read_keys(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_or_unreadable_file_is_refused(path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the API keys .* No such file"):
        read_keys(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_keys(path)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot write the API keys .* No such file"):
        write_keys(tmp_path / "absent" / "keys.yaml", KeyFile())


def test_the_command_makes_lists_and_removes(laud: Laud, path: Path) -> None:
    made = laud("keys", "add", "alice", "--file", path)
    assert made.status == 0
    key = made.out.strip()
    assert Keyring(path).owner(key) == "alice"
    assert key not in made.err
    assert "cannot be shown again" in made.err
    assert laud("keys", "add", "bob", "--file", path).status == 0
    listed = laud("keys", "list", "--file", path)
    assert [line.split()[0] for line in listed.out.splitlines()] == ["alice", "bob"]
    assert '"name": "bob"' in laud("keys", "list", "--json", "--file", path).out
    assert laud("keys", "remove", "alice", "--file", path).status == 0
    assert [record.name for record in read_keys(path).keys] == ["bob"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("add", "alice"), "there is a key 'alice' already"),
        (("add", "two words"), "'two words' cannot name a key"),
        (("add", ""), "'' cannot name a key"),
        (("remove", "bob"), "there is no key 'bob'; there are: alice"),
    ],
)
def test_the_command_says_what_is_wrong(
    laud: Laud, path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    assert laud("keys", "add", "alice", "--file", path).status == 0
    before = path.read_bytes()
    done = laud("keys", *arguments, "--file", path)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("laud: ")
    assert reason in done.err
    assert path.read_bytes() == before
