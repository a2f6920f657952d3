"""Models that are served: a bundle and the engine that it runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from engines.bundle import Bundle, Manifest, read_bundle
from engines.core import Engine
from engines.registry import load_engine
from service.errors import SettingsError
from service.settings import Settings


@dataclass(frozen=True)
class Model:
    """A bundle that is served: its manifest with the points of the engine's precision, its hash
    (64 hex digits) and the engine it runs on."""

    manifest: Manifest
    hash: str
    engine: Engine

    @property
    def name(self) -> str:
        """The bundle's name: the `model` of every interface and metric."""
        return self.manifest.name

    @property
    def image_size(self) -> int:
        """The evaluation size of `full`, in pixels."""
        return self.manifest.full.point.image_size

    @property
    def point_names(self) -> tuple[str, ...]:
        """Its operating points, `full` first."""
        return tuple(record.point.name for record in self.manifest.points)

    @cached_property
    def accuracies(self) -> Mapping[str, float | None]:
        """Expected accuracy per point, 0 to 1; None where it was not measured."""
        return {
            record.point.name: None if record.accuracy is None else record.accuracy.value
            for record in self.manifest.points
        }


def threads_of(engine: Engine) -> int:
    """Those that compute in a call; 1 where an engine does not say."""
    threads: int = getattr(engine, "threads", 1)
    return threads


Loader = Callable[[Settings], Iterator[Model]]


def load_models(settings: Settings) -> Iterator[Model]:
    """The models of `settings.bundles` in order; all bundles are verified before an engine loads.

    Raises SettingsError for two of one name, BundleError, EngineError or InvalidInput.
    """
    bundles: dict[str, Bundle] = {}
    for ref in settings.bundles:
        bundle = read_bundle(ref)
        name = bundle.manifest.name
        if name in bundles:
            raise SettingsError(
                f"'{bundles[name].path}' and '{bundle.path}' are both named '{name}'; "
                "serve them by two servers, or train one under another name ('name' in its "
                "configuration)"
            )
        bundles[name] = bundle
    for bundle in bundles.values():
        engine = load_engine(
            bundle,
            kind=settings.engine,
            threads=settings.threads,
            precision=settings.precision,
        )
        yield Model(bundle.manifest.at(engine.precision), bundle.hash, engine)
