# The verifier: grades answers. Holds neither torch nor vLLM, and nothing of the other services.
#   docker build -f docker/verifier.Dockerfile -t treerl/verifier .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
COPY requirements/verifier.txt /requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=docker/wheels,target=/wheels \
    python -m venv --without-pip /opt/venv && \
    pip --python /opt/venv/bin/python install --no-deps --find-links /wheels --requirement /requirements.txt
WORKDIR /app
COPY gen/treerl treerl
COPY services/__init__.py services/
COPY services/common services/common
COPY services/verifier services/verifier
RUN python -m compileall -q .

FROM ${BASE}
COPY --from=build /opt/venv /opt/venv
# Debian packages beside Python. The verifier grades C++ with PACKAGES=g++.
ARG PACKAGES=""
# Their versions are the base image's to choose.
# hadolint ignore=DL3008
RUN useradd --uid 10001 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin treerl && \
    { [ -z "${PACKAGES}" ] || { \
        apt-get update && \
        apt-get install --yes --no-install-recommends ${PACKAGES} && \
        rm -rf /var/lib/apt/lists/*; }; }
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp \
    TREERL_HOST=0.0.0.0 TREERL_VERIFIER_PORT=50051 TREERL_VERIFIER_METRICS_PORT=9100
USER 10001:10001
EXPOSE 50051 9100
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-m", "services.common.health", "127.0.0.1:50051"]
ENTRYPOINT ["python", "-m", "services.verifier"]
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="treerl-verifier" \
      org.opencontainers.image.description="Grades answers to mathematics and code, the latter in a sandbox" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
