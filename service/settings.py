"""The configuration: built once at the edge, then passed down; nothing below reads the environment.

Options of the command line outrank `LAUD_*` variables, which outrank the YAML file.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError as SourceError

from engines.core import MAX_THREADS
from engines.manifest import PRECISIONS
from engines.registry import DEFAULT_ENGINE, engine_names
from service.errors import SettingsError

PREFIX = "LAUD_"
# Names the YAML file itself; the command reads it.
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
# No settings of the service: the native engine reads it, to try the kernels of a lesser machine.
_ENGINE_VARIABLES = (f"{PREFIX}CPU_ISA",)

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """Everything that an operator may set. Sizes are bytes, durations seconds.

    bundles: `zoo:NAME` or directories, loaded in this order. threads, precision: of the engine;
    None is its own choice: every CPU it may use, and the best precision that machine and bundle
    have. max_batch: images that run together. max_images: images in one request.
    max_queue, max_queue_bytes: images inside the service, decoding and running ones included, and
    the memory they hold; beyond either, requests are refused. drain_s: how long the requests in
    flight may take to finish once the process was asked to stop.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    bundles: Annotated[tuple[str, ...], NoDecode] = ()
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    engine: str = DEFAULT_ENGINE
    precision: str | None = None
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] | None = None
    decode_threads: Count = 2
    max_batch: Annotated[int, Field(ge=1, le=64)] = 2
    max_images: Count = 32
    max_body_bytes: Count = 10 * 2**20
    max_pixels: Count = 40_000_000
    max_queue: Count = 256
    max_queue_bytes: Count = 256 * 2**20
    drain_s: Seconds = 25.0
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("bundles", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """A string, as from the environment, lists bundles with commas."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str) -> str:
        return _one_of(engine_names(), value)

    @field_validator("precision")
    @classmethod
    def _known_precision(cls, value: str | None) -> str | None:
        return None if value is None else _one_of(PRECISIONS, value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed: `load_settings` reads the sources, to say which of them is wrong."""
        return (init_settings,)


def _one_of(names: Sequence[str], value: str) -> str:
    if value not in names:
        raise PydanticCustomError("one_of", f"there are: {', '.join(names)}")
    return value


def load_settings(config: Path | None = None, options: Mapping[str, Any] | None = None) -> Settings:
    """Settings from `options` (None values do not count), the environment and a YAML file.

    Raises SettingsError that names the key and where it stands.
    """
    origins: dict[str, tuple[str, Any]] = {}
    if config is not None:
        for key, value in _read_yaml(config).items():
            _check_known(key, [*Settings.model_fields], str(config))
            origins[key] = (f"'{key}' in {config}", value)
    for key, value in _read_environment().items():
        origins[key] = (f"{PREFIX}{key.upper()} in the environment", value)
    for key, value in (options or {}).items():
        if value is not None:
            origins[key] = (f"option --{key.replace('_', '-')}", value)
    try:
        return Settings(**{key: value for key, (_, value) in origins.items()})
    except ValidationError as error:
        faults = (
            f"{origins[str(fault['loc'][0])][0]}: {fault['msg']}, got {fault['input']!r}"
            for fault in error.errors()
        )
        raise SettingsError("; ".join(faults)) from None


def _read_environment() -> dict[str, Any]:
    known = [
        CONFIG_VARIABLE,
        *_ENGINE_VARIABLES,
        *(PREFIX + name.upper() for name in Settings.model_fields),
    ]
    for variable in os.environ:
        if variable.startswith(PREFIX):
            _check_known(variable, known, "the environment")
    try:
        return EnvSettingsSource(Settings)()
    except SourceError as error:
        raise SettingsError(str(error)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold 'key: value' lines, got {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _check_known(key: str, known: Sequence[str], where: str) -> None:
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        raise SettingsError(f"unknown key '{key}' in {where}; {hint}")
