"""The configuration: built once at the edge, then passed down; nothing below reads the environment.

Options of the command line outrank `LAUD_*` variables, which outrank the YAML file.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator
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
from engines.manifest import SERVED_PRECISIONS
from engines.registry import DEFAULT_ENGINE, engine_names
from service.errors import SettingsError
from service.objectives import CUSTOM_CLASS, DEFAULT_CLASS, MAX_CLASSES, SloClass, SloName
from service.policy import DEFAULT_POLICY

PREFIX = "LAUD_"
# Names the YAML file itself; the command reads it.
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
# No settings of the service: the native engine reads it, to try the kernels of a lesser machine.
_ENGINE_VARIABLES = (f"{PREFIX}CPU_ISA",)

_CLASSES_AS_JSON = 'must be JSON, for example {"fast": {"slo_ms": 50}}'

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """Everything that an operator may set. Sizes are bytes, durations seconds.

    bundles: `zoo:NAME` or directories, loaded in this order. threads, precision: of the engine;
    None is its own choice: every CPU it may use, and the best precision that machine and bundle
    have. decode_threads: that decode, and as many that make masks and drawn pictures.
    max_batch: images that run together; None is what a call of 20 ms at `full` has room for, 2 to
    8. max_images: images in one request.
    max_queue, max_queue_bytes: images inside the service, decoding and running ones included, and
    the memory they hold; beyond either, requests are refused. slo_classes: latency objectives that
    requests name by `x-slo-class`; default_class: the one of requests that name none
    (without it `default` where there is one, else three times what `full` is predicted to take).
    drain_s: how long the requests in flight may take to finish once the process was asked to stop.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    bundles: Annotated[tuple[str, ...], NoDecode] = ()
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    engine: str = DEFAULT_ENGINE
    precision: str | None = None
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] | None = None
    decode_threads: Count = 2
    max_batch: Annotated[int, Field(ge=1, le=64)] | None = None
    max_images: Count = 32
    max_body_bytes: Count = 10 * 2**20
    max_pixels: Count = 40_000_000
    max_queue: Count = 256
    max_queue_bytes: Count = 256 * 2**20
    max_queue_s: Seconds = 2.0
    late_limit_s: Seconds = 10.0
    receive_limit_s: Seconds = 10.0
    drain_s: Seconds = 25.0
    policy: str = DEFAULT_POLICY
    slo_classes: Annotated[dict[SloName, SloClass], NoDecode] = Field(
        default_factory=dict, max_length=MAX_CLASSES
    )
    default_class: str | None = None
    latency_tables: Annotated[tuple[Path, ...], NoDecode] = ()
    api_keys: Path | None = None
    max_in_flight_per_key: Count | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    admin_host: str | None = None
    admin_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("bundles", "latency_tables", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """A string, as from the environment, is a list with commas."""
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
        return None if value is None else _one_of(SERVED_PRECISIONS, value)

    @field_validator("slo_classes", mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> Any:
        """A string, as from the environment, is JSON."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise PydanticCustomError("json", _CLASSES_AS_JSON) from None

    @field_validator("slo_classes")
    @classmethod
    def _own_names(cls, value: dict[str, SloClass]) -> dict[str, SloClass]:
        if CUSTOM_CLASS in value:
            raise PydanticCustomError(
                "reserved",
                f"'{CUSTOM_CLASS}' is what requests with a time of their own count as; "
                "name the class otherwise",
            )
        return value

    @field_validator("default_class")
    @classmethod
    def _known_class(cls, value: str | None, info: ValidationInfo) -> str | None:
        # Absent where the classes themselves are wrong, which is said already.
        classes = info.data.get("slo_classes")
        if value is None or classes is None:
            return value
        if not classes:
            raise PydanticCustomError("one_of", "there are no slo_classes to name one of")
        return _one_of(tuple(classes), value)

    @property
    def default_slo(self) -> tuple[str, SloClass] | None:
        """Name and class of requests that ask for nothing: `default_class`, or the class `default`.

        None where neither is configured: then it follows from what the machine can do.
        """
        name = DEFAULT_CLASS if self.default_class is None else self.default_class
        found = self.slo_classes.get(name)
        return None if found is None else (name, found)

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
            f"{_place(fault['loc'], origins)}: {fault['msg']}, got {fault['input']!r}"
            for fault in error.errors()
        )
        raise SettingsError("; ".join(faults)) from None


def _place(path: tuple[int | str, ...], origins: Mapping[str, tuple[str, Any]]) -> str:
    """Where a faulty value stands: its source, and within it the key, for example `fast.slo_ms`."""
    key, *inner = path
    within = ".".join(str(part) for part in inner if part != "[key]")
    return f"{origins[str(key)][0]}: {within}" if within else origins[str(key)][0]


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
