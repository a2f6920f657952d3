"""The least that a FastAPI handler can do with a body: read it and answer. What overhead is over.

`python -m service.load.bare` serves it like the real server, on a free port that it says on stderr.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

import uvicorn
import uvloop
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse


def bare_app() -> FastAPI:
    """One route, `POST /`, which answers how many bytes it read."""
    app = FastAPI()

    @app.post("/")
    async def read(request: Request) -> JSONResponse:
        return JSONResponse({"bytes": len(await request.body())})

    return app


def main() -> None:
    """Serve until a signal; the settings are those of service.server."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        print(json.dumps({"event": "ready", "url": url}), file=sys.stderr, flush=True)
        config = uvicorn.Config(
            bare_app(), log_config=None, access_log=False, server_header=False, lifespan="off"
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(uvicorn.Server(config).serve(sockets=[taken]))


if __name__ == "__main__":
    main()
