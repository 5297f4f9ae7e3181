# A project's image: its own code on an image of steps. Every task of its pipelines runs in it:
# `python -m pipelines compile --image NAME@sha256:…`. Change the COPY lines to what your project has.
ARG VERSION=0.1.0
ARG BASE=tidegate/steps:${VERSION}
FROM ${BASE}
ARG COMMIT
LABEL org.opencontainers.image.revision="${COMMIT}"
COPY components /project/components
COPY pipelines /project/pipelines
COPY feature_repo /project/feature_repo
COPY examples /project/examples
ENV PYTHONPATH=/project
USER 10001
ENTRYPOINT []
