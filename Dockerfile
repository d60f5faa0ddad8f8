# Runs the job of the two commands, offline once built:
#   docker build -t anomalysmith .
#   docker run --rm -v "$PWD/out:/app/out" anomalysmith          # make demo
#   docker run --rm anomalysmith test                            # make test
#   docker run --rm --entrypoint anomalysmith anomalysmith --help
# On Linux the mounted folder must be writable for user 1000. GPU: add `--gpus all`.
# State: written and linted, never built; the machines of this project have no container engine.

FROM python:3.11-slim AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
ENV VENV=/opt/venv

# The locked packages, a layer that only a new lock rebuilds.
FROM base AS packages
COPY Makefile pyproject.toml requirements.lock ./
RUN make locked PIP_NO_CACHE_DIR=1

FROM base
COPY --from=packages /opt/venv /opt/venv
RUN useradd --create-home --uid 1000 smith && mkdir -p out && chown smith /app out
COPY --chown=smith . .
RUN make install
ENV PATH=/opt/venv/bin:$PATH \
    HF_HUB_OFFLINE=1 \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    NUMBA_DISABLE_JIT=1 \
    PYTHONUNBUFFERED=1
USER 1000
ENTRYPOINT ["make"]
CMD ["demo"]
