# The demo server on a CPU:
#   docker build -t laudserve .
#   docker run --rm -p 8000:8000 --read-only --tmpfs /tmp laudserve
FROM python:3.11.14-slim-bookworm AS base

FROM base AS builder
# Another package index, for example one with CPU builds of torch: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/laudserve
ENV PATH=/opt/laudserve/bin:$PATH
# The packages are empty here, so that this layer (torch: 5.5 GB) stays while only code changes.
COPY pyproject.toml constraints.txt LICENSE NOTICE README.md* ./
RUN mkdir engines service \
    && touch engines/__init__.py service/__init__.py \
    && pip install --constraint constraints.txt '.[reference]'
COPY engines engines
COPY service service
RUN pip install --constraint constraints.txt --no-deps --force-reinstall .

FROM base AS runtime
# Nothing is written outside /tmp: byte code was compiled at installation.
ENV PATH=/opt/laudserve/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=builder /opt/laudserve /opt/laudserve
WORKDIR /tmp
USER 65532:65532
EXPOSE 8000
# Without proxies, which the environment may name: the server is this container.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["laud", "serve"]
CMD ["zoo:clothing", "--host", "0.0.0.0", "--port", "8000"]
