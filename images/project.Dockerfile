# A project's image: its own code on the base image. Every pipeline task runs in it: `python -m pipelines compile --image NAME@sha256:…`.
ARG BASE=tidegate/base
FROM ${BASE}
COPY components /project/components
COPY pipelines /project/pipelines
COPY feature_repo /project/feature_repo
COPY examples /project/examples
ENV PYTHONPATH=/project
ENTRYPOINT []
