"""API keys: how they are made, the file that knows them, and who a key belongs to.

The file holds only SHA-256 hashes. A slow hash would protect nothing here: it is for passwords,
which can be guessed, while a key of 256 random bits cannot; and it would cost every request.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import structlog
import yaml
from pydantic import Field, ValidationError

from engines.core import FrozenModel
from service.errors import SettingsError

PREFIX = "laud_"
KEY_BYTES = 32
_FILE_MODE = 0o600
_HEADER = "# API keys of laudserve, hashed. Change it with `laud keys`.\n"

_log = structlog.get_logger("laud")

KeyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]


class KeyRecord(FrozenModel):
    """A key as the file knows it. name: its id in logs. sha256: of the whole key, in hex."""

    name: KeyName
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: datetime.date


class KeyFile(FrozenModel):
    """Content of a key file; names are unique."""

    version: Literal[1] = 1
    keys: tuple[KeyRecord, ...] = ()

    def with_key(self, name: str, key: str, today: datetime.date) -> KeyFile:
        """The same with one key more. Raises SettingsError for a name that is taken or no name."""
        if any(record.name == name for record in self.keys):
            raise SettingsError(f"there is a key '{name}' already; remove it first")
        try:
            record = KeyRecord(name=name, sha256=_digest(key), created=today)
        except ValidationError:
            raise SettingsError(
                f"'{name:.80}' cannot name a key: use 1 to 64 letters, digits, '.', '_', '@', '-', "
                "beginning with a letter or digit"
            ) from None
        return KeyFile(keys=(*self.keys, record))

    def without(self, name: str) -> KeyFile:
        """The same without that key. Raises SettingsError when there is none."""
        kept = tuple(record for record in self.keys if record.name != name)
        if len(kept) == len(self.keys):
            there = ", ".join(record.name for record in self.keys) or "none"
            raise SettingsError(f"there is no key '{name:.80}'; there are: {there}")
        return KeyFile(keys=kept)


def new_key() -> str:
    """A fresh key: 256 random bits behind a prefix by which leaked ones can be found."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def read_keys(path: Path) -> KeyFile:
    """The keys in a file. Raises SettingsError that says what is wrong with it; warns when it can
    be read or changed by others than its owner."""
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode
    except OSError as error:
        raise SettingsError(f"cannot read the API keys {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not a key file of `laud keys`: not UTF-8") from None
    if mode & 0o077:
        _log.warning("others than its owner may read or change the API keys", file=str(path),
                     mode=f"{mode & 0o777:04o}", remedy=f"chmod 600 {path}")  # fmt: skip
    try:
        file = KeyFile.model_validate(yaml.safe_load(text) or {})
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise SettingsError(f"{path} is not a key file: {where}: {fault['msg']}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    names = [record.name for record in file.keys]
    if len(names) != len(set(names)):
        raise SettingsError(f"{path} has two keys of one name; names must be unique")
    return file


def write_keys(path: Path, file: KeyFile) -> None:
    """Replace a file in one step, readable by its owner only. Raises SettingsError."""
    content = _HEADER + yaml.safe_dump(file.model_dump(mode="json"), sort_keys=False)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(handle, "w", encoding="utf-8") as stream:
                os.fchmod(stream.fileno(), _FILE_MODE)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
    except OSError as error:
        raise SettingsError(f"cannot write the API keys {path}: {error.strerror}") from None


class Keyring:
    """The keys that are accepted. Not for threads: the event loop's only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: tuple[tuple[str, str], ...] = ()
        self.reload()

    def __len__(self) -> int:
        return len(self._keys)

    def reload(self) -> None:
        """Read the file again. Raises SettingsError, and keeps the keys there were."""
        self._keys = tuple((record.sha256, record.name) for record in read_keys(self._path).keys)

    def owner(self, key: str) -> str | None:
        """The name of a key; None for one that is unknown.

        Takes the same time whichever it is, and however much of it is right.
        """
        digest = _digest(key)
        found: str | None = None
        for known, name in self._keys:
            if hmac.compare_digest(known, digest):
                found = name
        return found


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", errors="surrogatepass")).hexdigest()
