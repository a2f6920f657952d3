"""`laud keys`: make, list and remove the API keys of a service."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Make, list and remove API keys.", no_args_is_help=True, rich_markup_mode=None
)

File = Annotated[Path, typer.Option(help="The key file, which `laud serve --api-keys` reads.")]
_DEFAULT = Path("keys.yaml")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is: what logs will say.")],
    file: File = _DEFAULT,
) -> None:
    """Make a key and print it, once: the file keeps only its hash.

        \b
        laud keys add alice > alice.key
        laud serve zoo:clothing --api-keys keys.yaml
        curl -H "authorization: Bearer $(cat alice.key)" localhost:8000/v1/models

    A running server reads the file again on SIGHUP.
    """
    import datetime

    from service.keys import KeyFile, new_key, read_keys, write_keys

    key = new_key()
    known = read_keys(file) if file.exists() else KeyFile()
    write_keys(file, known.with_key(name, key, datetime.datetime.now(datetime.UTC).date()))
    print(key)
    print(f"key '{name}' is in {file}; it cannot be shown again", file=sys.stderr)


@app.command("list")
def list_keys(
    file: File = _DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the names of the keys and when they were made."""
    from service.keys import read_keys

    records = read_keys(file).keys
    if as_json:
        print(json.dumps([{"name": r.name, "created": r.created.isoformat()} for r in records]))
        return
    for record in records:
        print(f"{record.name:<32} {record.created}")


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="Whose key it is.")], file: File = _DEFAULT
) -> None:
    """Remove a key. A running server refuses it after SIGHUP."""
    from service.keys import read_keys, write_keys

    write_keys(file, read_keys(file).without(name))
    print(f"key '{name}' is no longer in {file}", file=sys.stderr)
