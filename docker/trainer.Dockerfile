# The trainer: updates the policy with DeepSpeed, on a CPU or (EXTRA=gpu, PACKAGES="gcc libc6-dev") a GPU. In /demo are a
# tiny policy and its problems, from which the demo's run starts.
#   docker build -f docker/trainer.Dockerfile -t treerl/trainer .
ARG BASE=python:3.11-slim-bookworm

# Up to the environment sampler and trainer are the same: it is built once, and their images share its layer.
FROM ${BASE} AS packages
ARG EXTRA=cpu
ARG TORCH_CPU_INDEX=""
COPY requirements/${EXTRA}.txt /requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=docker/wheels,target=/wheels \
    python -m venv --without-pip /opt/venv && \
    pip --python /opt/venv/bin/python install --no-deps --find-links /wheels \
        ${TORCH_CPU_INDEX:+--extra-index-url "${TORCH_CPU_INDEX}"} --requirement /requirements.txt

# Made here, in two minutes, so that a stack is there as soon as its containers are. Idle threads sleep instead of spin,
# because builds share the cores.
FROM packages AS demo
WORKDIR /app
COPY services/__init__.py services/
COPY services/common services/common
COPY services/sft services/sft
COPY services/demo services/demo
RUN OMP_WAIT_POLICY=PASSIVE /opt/venv/bin/python -m services.demo /demo

FROM packages AS build
WORKDIR /app
COPY gen/treerl treerl
COPY services/__init__.py services/
COPY services/common services/common
COPY services/trainer services/trainer
RUN python -m compileall -q .

FROM ${BASE}
COPY --from=build /opt/venv /opt/venv
# Debian packages beside Python. On a GPU, Triton compiles its launchers when they are first used: it needs a C compiler.
ARG PACKAGES=""
# Their versions are the base image's to choose.
# hadolint ignore=DL3008
RUN useradd --uid 10001 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin treerl && \
    install --directory --owner=10001 --group=10001 /data && \
    { [ -z "${PACKAGES}" ] || { \
        apt-get update && \
        apt-get install --yes --no-install-recommends ${PACKAGES} && \
        rm -rf /var/lib/apt/lists/*; }; }
COPY --from=demo --chown=10001:10001 /demo /demo
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp \
    TREERL_HOST=0.0.0.0 TREERL_TRAINER_PORT=50051 TREERL_TRAINER_METRICS_PORT=9100
USER 10001:10001
EXPOSE 50051 9100
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s \
    CMD ["python", "-m", "services.common.health", "127.0.0.1:50051"]
ENTRYPOINT ["python", "-m", "services.trainer"]
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="treerl-trainer" \
      org.opencontainers.image.description="Trains the policy on graded trees with DeepSpeed, and publishes its weights" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
