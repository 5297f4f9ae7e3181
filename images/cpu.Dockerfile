# Tidegate's images for CPU: `--target server` serves models, `--target steps` runs the steps of the pipelines. `make image`.
ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS installer
COPY requirements/bootstrap.txt requirements/build.txt /requirements/
RUN python -m venv /opt/installer \
 && /opt/installer/bin/pip install --no-cache-dir --require-hashes --requirement /requirements/bootstrap.txt \
 && python -m venv --without-pip /opt/tidegate
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON=/opt/tidegate/bin/python

FROM installer AS server-environment
COPY requirements/server.txt /requirements/
RUN /opt/installer/bin/uv pip install --require-hashes --build-constraints /requirements/build.txt \
      --requirement /requirements/server.txt
COPY pyproject.toml README.md LICENSE /source/
COPY tidegate /source/tidegate
RUN /opt/installer/bin/uv pip install --no-deps --build-constraints /requirements/build.txt /source

FROM installer AS steps-environment
COPY requirements/steps.txt /requirements/
RUN /opt/installer/bin/uv pip install --require-hashes --build-constraints /requirements/build.txt \
      --requirement /requirements/steps.txt
COPY pyproject.toml README.md LICENSE /source/
COPY tidegate /source/tidegate
RUN /opt/installer/bin/uv pip install --no-deps --build-constraints /requirements/build.txt /source

FROM ${PYTHON} AS runtime
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="Tidegate" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
RUN useradd --uid 10001 --create-home tidegate
ENV PATH=/opt/tidegate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /project
USER 10001
ENTRYPOINT ["tidegate"]

FROM runtime AS steps
COPY --from=steps-environment /opt/tidegate /opt/tidegate

FROM runtime AS server
COPY --from=server-environment /opt/tidegate /opt/tidegate
