# The arguments of a build: the base; extras of pyproject.toml, comma-separated; and, for a driver
# that is older than CUDA 13, an index with torch for another CUDA, and that CUDA's version.
ARG BASE=docker.io/library/debian:trixie-slim

FROM ${BASE} AS wheel
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt pyproject.toml ./
RUN python3 -m venv /build \
 && /build/bin/pip install --no-cache-dir -c constraints.txt hatchling
ARG EXTRAS="postgres,ray,s3"
# What the project asks for, so that a change to its code alone leaves the layer of packages as it is.
RUN python3 -c 'import sys, tomllib; \
project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = [name for name in sys.argv[1].split(",") if name]; \
print(*project["dependencies"], *(each for name in extras \
for each in project["optional-dependencies"][name]), sep="\n")' "${EXTRAS}" > requirements.txt
COPY LICENSE README.md ./
COPY weights weights
COPY pipeline pipeline
COPY server server
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation -w /dist .

FROM ${BASE}
# Triton compiles its launchers at run time: with gcc, and with Python's and libc's headers.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates gcc libc6-dev python3 python3-dev python3-venv tini \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/cosmos-serve
ENV PATH=/opt/cosmos-serve/bin:$PATH \
    PYTHONUNBUFFERED=1

# In the order in which they change: torch with CUDA, the other packages, our own code.
COPY constraints.txt /opt/
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir -c /opt/constraints.txt \
      ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} torch
COPY --from=wheel /src/requirements.txt /opt/
RUN pip install --no-cache-dir -c /opt/constraints.txt -r /opt/requirements.txt
COPY --from=wheel /dist /opt/dist
RUN pip install --no-cache-dir --no-deps /opt/dist/*.whl

# Group 0 may write, so that a cluster can run this as any user of that group.
RUN useradd --uid 10001 --gid 0 --no-create-home --home-dir /data cosmos \
 && install -d -o 10001 -g 0 -m 2775 /certificates /data /weights
USER 10001:0
WORKDIR /data
ARG CUDA=13.0
# All of it is written under /data. Without a GPU the start fails, unless COSMOS_DEVICES is cpu.
ENV HOME=/data \
    COSMOS_DATA=/data \
    COSMOS_DEVICES=all \
    COSMOS_HOST=0.0.0.0 \
    COSMOS_PULL=true \
    COSMOS_WEIGHTS=/weights \
    HF_HOME=/data/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_REQUIRE_CUDA="cuda>=${CUDA}" \
    NVIDIA_VISIBLE_DEVICES=all \
    TRITON_CACHE_DIR=/data/cache/triton
VOLUME ["/weights", "/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
# It says that the process lives, and not that a model is loaded: /health/ready does.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('COSMOS_PORT', 8000)}/health/live\", timeout=4)"]
ENTRYPOINT ["/usr/bin/tini", "--", "cosmos-serve"]
CMD ["serve"]

ARG BASE
ARG REVISION=""
ARG VERSION=""
LABEL org.opencontainers.image.title="cosmos-serve" \
      org.opencontainers.image.description="NVIDIA Cosmos-Predict2.5-2B on your own GPU, behind the API that fal clients speak" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}"
