"""Measured values as JSON files: written in one step, read with every fault explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from engines.bundle import explain
from engines.core import FrozenModel
from engines.errors import LatencyError, LaudError
from engines.replacing import replace_file

MAX_BYTES = 64 * 2**20
_MOST_SAID = 160

_Model = TypeVar("_Model", bound=FrozenModel)


def write_model(path: Path, value: FrozenModel) -> None:
    """Write in one step: a kill leaves the old file or none. OSError where that cannot be."""
    replace_file(path, (value.model_dump_json(indent=1) + "\n").encode())


def read_model(
    path: Path,
    model: type[_Model],
    *,
    newest: int,
    oldest: int = 0,
    what: str,
    command: str,
    verb: str = "measure",
    fault: type[LaudError] = LatencyError,
) -> _Model:
    """Read a value that has a `schema_version`, from `oldest` to `newest`.

    what: what the file should be, such as `a latency table`; command: what makes a new one, by
    which verb. Raises a `fault` that says what is wrong and what to do.
    """
    again = f"{verb} again with: {command}"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise fault(f"'{path}' is larger than {MAX_BYTES} bytes, it is not {what}")
        text = path.read_text("utf-8")
        content = json.loads(text)
    except OSError as error:
        raise fault(f"cannot read '{path}', {what}: {error.strerror}; {again}") from None
    except (ValueError, RecursionError) as error:
        raise fault(f"'{path}' is not JSON: {error}; {again}") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > newest:
        raise fault(
            f"'{path}' has schema version {version}, this laudserve reads up to {newest}; "
            "install a newer laudserve"
        )
    if isinstance(version, int) and version < oldest:
        raise fault(f"'{path}' is of an older laudserve; {again}")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        said = explain(error)
        if len(said) > _MOST_SAID:
            said = f"{said[:_MOST_SAID]}..."
        raise fault(f"'{path}' is not {what}: {said}; {again}") from None
