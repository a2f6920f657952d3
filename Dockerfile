# The demo server on a CPU:
#   docker build -t laudserve .
#   docker run --rm -p 8000:8000 --read-only --tmpfs /tmp laudserve
FROM python:3.11.14-slim-bookworm AS base

FROM base AS builder
# The native engine is compiled here; the image that runs it has no compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake g++ ninja-build \
    && rm -rf /var/lib/apt/lists/*
# Another package index: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/laudserve
ENV PATH=/opt/laudserve/bin:$PATH
COPY . .
RUN pip install --constraint constraints.txt .

FROM base AS runtime
# Nothing is written outside /tmp: byte code was compiled at installation.
ENV PATH=/opt/laudserve/bin:$PATH \
    HOME=/tmp \
    LAUD_HOST=0.0.0.0 \
    LAUD_PORT=8000 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=builder /opt/laudserve /opt/laudserve
WORKDIR /tmp
USER 65532:65532
EXPOSE 8000
# Without proxies, which the environment may name: the server is this container.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(f\"http://127.0.0.1:{os.environ['LAUD_PORT']}/v2/health/ready\", timeout=2)"]
ENTRYPOINT ["laud", "serve"]
CMD ["zoo:clothing"]
