# Images of refnet, which map the files of the folder that is mounted at /data:
#
#     docker build --target cpu -t refnet .            torch for CPUs
#     docker build --target onnx -t refnet:onnx .      without torch, a third of the size; predicts only
#     docker build --target cuda -t refnet:cuda .      torch, fla-core and ONNX Runtime for CUDA GPUs
#     docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/data" refnet predict --optical s2.tif --sar s1.tif -o lulc.tif
#
# docs/how-to/install.md has the rest. BASE is a Debian with Python 3.11 to 3.13 as python3, its headers, venv and pip.
ARG BASE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE} AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY refnet_cli refnet_cli
COPY weights/refnet-base.safetensors weights/refnet-base.onnx weights/
RUN python3 -m venv /opt/refnet \
    && /opt/refnet/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# Environments are made here and copied, so that no image holds the checkout, the wheel or what pip leaves.
FROM wheel AS onnx-environment
ARG EXTRAS=fetch,parquet,xarray
RUN /opt/refnet/bin/pip install --no-cache-dir --compile "$(echo /wheels/*.whl)[onnx,${EXTRAS}]"

# PyPI's torch for Linux brings CUDA, 5 GB of it; this index has builds without.
FROM wheel AS cpu-environment
ARG EXTRAS=fetch,parquet,xarray
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3013
RUN /opt/refnet/bin/pip install --no-cache-dir --compile --index-url "${TORCH_INDEX}" 'torch>=2.9' \
    && /opt/refnet/bin/pip install --no-cache-dir --compile "$(echo /wheels/*.whl)[torch,${EXTRAS}]"

FROM wheel AS cuda-environment
ARG EXTRAS=fetch,parquet,xarray
RUN /opt/refnet/bin/pip install --no-cache-dir --compile "$(echo /wheels/*.whl)[gpu,${EXTRAS}]"

FROM ${BASE} AS runtime
# GDAL reads XML by the system's expat. The versions are those of the base's Debian release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /data \
    && chown 1000:1000 /data
# Caches go to /tmp, the one folder besides /data that a container with a read-only root can be given (--tmpfs /tmp).
ENV PATH=/opt/refnet/bin:$PATH \
    HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba \
    TRITON_CACHE_DIR=/tmp/triton \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /data
USER 1000:1000
ENTRYPOINT ["refnet"]
CMD ["--help"]

FROM runtime AS onnx
COPY --from=onnx-environment /opt/refnet /opt/refnet

FROM runtime AS cuda
USER 0:0
# Triton compiles a small C program for each kernel.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER 1000:1000
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=cuda-environment /opt/refnet /opt/refnet

# The last stage is what `docker build .` makes.
FROM runtime AS cpu
COPY --from=cpu-environment /opt/refnet /opt/refnet
