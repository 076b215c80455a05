# The web demo's server on port 7263; see docs/serve.md. Built from the top of the repository.
ARG BASE_IMAGE=python:3.12-slim
FROM ${BASE_IMAGE}

# mini, nano, tiny, small, base_plus or large
ARG MODEL_SIZE=base_plus
# API_URL is the server's address for clients; it answers only under this name and localhost.
ENV MODEL_SIZE=${MODEL_SIZE} \
    API_URL=http://localhost:7263 \
    SAM2FAST_CHECKPOINTS=/opt/sam2fast/checkpoints \
    TRITON_CACHE_DIR=/tmp/triton \
    PYTHONUNBUFFERED=1

# Triton compiles its launchers with gcc on GPUs. The version is that of the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

COPY setup.py pyproject.toml constraints.txt README.md LICENSE NOTICE /opt/sam2fast/source/
COPY kernels /opt/sam2fast/source/kernels
COPY configs /opt/sam2fast/source/configs
COPY sam2fast /opt/sam2fast/source/sam2fast
RUN pip install --no-cache-dir --constraint /opt/sam2fast/source/constraints.txt "/opt/sam2fast/source[serve]"

# The checkpoint must be readable by the user below.
RUN mkdir --parents /opt/sam2fast/checkpoints /data \
    && { [ "${MODEL_SIZE}" = mini ] || [ "${MODEL_SIZE}" = nano ] || sam2fast download --to /opt/sam2fast/checkpoints "${MODEL_SIZE}"; } \
    && chmod --recursive a+rX /opt/sam2fast/checkpoints \
    && useradd --create-home --uid 1000 demo \
    && chown demo /data
USER 1000

VOLUME /data
EXPOSE 7263
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7263/ready', timeout=4)"]

# exec replaces the shell, so that the server gets the signals.
CMD ["sh", "-c", "exec sam2fast serve --model \"$MODEL_SIZE\" --host 0.0.0.0 --no-token --port 7263 --data /data --api-url \"$API_URL\""]
