# anomalysmith as an image; compose.yaml puts server, database and worker around it, and
# docs/operation.md goes through both.
#
#   docker build -t anomalysmith .                                  CPU
#   docker build -t anomalysmith:cuda --build-arg DEVICE=cuda .     CUDA; run with `--gpus all`
#   docker build -t anomalysmith:lama --target lama .               with lama-cleaner's own server
#   docker run --rm -v "$PWD/out:/app/out" anomalysmith make demo
#   docker run --rm anomalysmith anomalysmith doctor
#
# A mirror of the package index goes in as a secret, never as a line here:
#   docker build --secret id=pip,src="$HOME/.config/pip/pip.conf" -t anomalysmith .
# Nothing is fetched once the image is built.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
ENV VENV=/opt/venv

# The locked packages: a layer that only a new lock rebuilds.
FROM base AS packages
ARG DEVICE=cpu
# Where PyTorch publishes the same releases without CUDA; asked for DEVICE=cpu only.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements.lock docker/select_packages.sh ./
RUN sh select_packages.sh "$DEVICE" requirements.lock && python3 -m venv "$VENV"
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    "$VENV/bin/python" -m pip install --no-deps -r locked.txt \
    && if test -s torch.txt; then \
        PIP_INDEX_URL="$TORCH_INDEX" "$VENV/bin/python" -m pip install --no-deps -r torch.txt; \
    fi

FROM base AS program
COPY --from=packages /opt/venv /opt/venv
RUN useradd --create-home --uid 1000 smith
WORKDIR /app
COPY . .
# `make` is told that the packages are there. The program belongs to root, what it makes to its user.
# The default model files go where this user's programs look for them; the second `pull` fetches
# nothing, but fails the build where the first one had no success. Compiled here, because its user
# could not: every start would compile the program again.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    export ANOMALYSMITH_WEIGHTS=/home/smith/.cache/anomalysmith/weights \
    && make --touch locked && make install && "$VENV/bin/anomalysmith" weights pull \
    && "$VENV/bin/python" -m compileall -q detectors flows pipeline scenes \
    && install --directory --owner=smith /app/out /data /home/smith/.prefect
ENV PATH=/opt/venv/bin:$PATH \
    DO_NOT_TRACK=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HF_HUB_OFFLINE=1 \
    NUMBA_DISABLE_JIT=1 \
    OMP_WAIT_POLICY=PASSIVE \
    OPENBLAS_NUM_THREADS=1 \
    ORT_DISABLE_TELEMETRY=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=180 \
    PYDANTIC_DISABLE_PLUGINS=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# lama-cleaner's server on the same PyTorch, with the few packages that only a server needs.
FROM program AS lama
COPY docker/lama-server.lock ./docker/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python -m pip install --no-cache-dir --no-deps -r docker/lama-server.lock
ENV LAMA_MODEL_URL=/app/weights/small_lama.pt
USER 1000
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s \
    CMD ["python", "docker/answers.py", "http://127.0.0.1:8080/model"]
CMD ["lama-cleaner", "--model", "lama", "--device", "cpu", "--host", "0.0.0.0", "--port", "8080", "--disable-model-switch"]

FROM program
USER 1000
VOLUME ["/app/out", "/data"]
HEALTHCHECK --interval=5m --timeout=60s --start-period=30s \
    CMD ["anomalysmith", "doctor", "--json"]
CMD ["anomalysmith", "--help"]
