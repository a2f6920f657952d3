"""The command `laud`. Sub-commands import what they need in their bodies: help is instant."""

from __future__ import annotations

import sys

import typer

from engines.errors import LaudError
from service.cli import bench, bench_plan, bench_predictor, bench_serve, keys
from service.cli.build import build
from service.cli.evaluate import evaluate
from service.cli.export import export
from service.cli.inspect import inspect
from service.cli.load import load
from service.cli.measure import measure
from service.cli.plan import plan
from service.cli.predict import predict
from service.cli.serve import serve
from service.cli.simulate import simulate
from service.cli.train import train
from service.cli.verify import verify
from service.cli.whatif import whatif

app = typer.Typer(
    name="laud",
    help="Train, measure and serve image networks that compute only where the image needs it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(serve)
app.command()(load)
app.command()(simulate)
app.command()(whatif)
app.command()(train)
app.command()(export)
app.command()(build)
app.command()(verify)
app.command()(inspect)
app.command()(evaluate)
app.command()(measure)
app.command()(predict)
bench.app.command()(bench_predictor.predictor)
bench.app.command()(bench_plan.plan)
bench.app.command()(bench_serve.serve)
app.command()(plan)
app.add_typer(bench.app, name="bench")
app.add_typer(keys.app, name="keys")


# Which extra of pyproject.toml brings what the base install lacks.
_EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "faster_coco_eval": "evaluate",
    "matplotlib": "evaluate",
    "onnx": "onnx",
}


def main() -> None:
    """Run the command; an error that is the user's to mend is one line, and exit status 2."""
    try:
        app()
    except LaudError as error:
        print(f"laud: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        where = "" if error.filename is None else f": '{error.filename}'"
        print(f"laud: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(
            f"laud: this command needs {error.name}; from the checkout, install it with: "
            f"pip install -c constraints.txt '.[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
