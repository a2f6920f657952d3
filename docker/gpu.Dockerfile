# Builds, verifies and serves plans on an NVIDIA GPU. From the checkout:
#   docker build -f docker/gpu.Dockerfile -t laudserve-gpu .
#   mkdir -p plans
#   docker run --rm --gpus all --user "$(id -u)" -v "$PWD/plans:/plans" laudserve-gpu build zoo:clothing
# Python and TensorRT (10.16.0) are those of the base: a plan fits the version that built it.
FROM nvcr.io/nvidia/tensorrt:26.03-py3 AS base

FROM base AS builder
# The native engine is compiled here; the image that runs it needs no compiler for it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake g++ ninja-build python3-dev \
    && rm -rf /var/lib/apt/lists/*
# Another package index: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# The base's packages are seen, TensorRT's module among them; pip is the base's too.
RUN python3 -m venv --without-pip --system-site-packages /opt/laudserve
COPY . .
RUN python3 -m pip --python /opt/laudserve/bin/python install --constraint constraints.txt '.[gpu]'

FROM base AS runtime
# Compiled kernels are cached below HOME while a plan is built.
ENV PATH=/opt/laudserve/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=builder /opt/laudserve /opt/laudserve
# Plans of packaged bundles are written to, and looked for in, the folder where laud runs.
WORKDIR /plans
USER 65532:65532
EXPOSE 8000
ENTRYPOINT ["laud"]
CMD ["serve", "zoo:clothing", "--engine", "tensorrt", "--host", "0.0.0.0"]
