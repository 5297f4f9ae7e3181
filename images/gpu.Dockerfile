# Tidegate's images for GPUs: CUDA 13, cuDNN 9, TensorRT 10, as onnxruntime-gpu 1.31 links them. Targets as on CPU. `make image`.
ARG CUDA=nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04

FROM ${CUDA} AS installer
COPY requirements/bootstrap.txt requirements/build.txt /requirements/
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/installer \
 && /opt/installer/bin/pip install --no-cache-dir --require-hashes --requirement /requirements/bootstrap.txt \
 && python3 -m venv --without-pip /opt/tidegate
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON=/opt/tidegate/bin/python

FROM installer AS server-environment
COPY requirements/server-gpu.txt /requirements/
RUN /opt/installer/bin/uv pip install --require-hashes --build-constraints /requirements/build.txt \
      --requirement /requirements/server-gpu.txt
COPY pyproject.toml README.md LICENSE /source/
COPY tidegate /source/tidegate
RUN /opt/installer/bin/uv pip install --no-deps --build-constraints /requirements/build.txt /source

FROM installer AS steps-environment
COPY requirements/steps-gpu.txt /requirements/
RUN /opt/installer/bin/uv pip install --require-hashes --build-constraints /requirements/build.txt \
      --requirement /requirements/steps-gpu.txt
COPY pyproject.toml README.md LICENSE /source/
COPY tidegate /source/tidegate
RUN /opt/installer/bin/uv pip install --no-deps --build-constraints /requirements/build.txt /source

# TensorRT comes from NVIDIA's signed package repository, which the CUDA image has set up: PyPI carries none of its libraries.
FROM ${CUDA} AS runtime
ARG TENSORRT=10.14.1.48-1+cuda13.0
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      libnvinfer10=${TENSORRT} libnvinfer-plugin10=${TENSORRT} libnvonnxparsers10=${TENSORRT} python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home tidegate
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="Tidegate for GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
ENV PATH=/opt/tidegate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /project
USER 10001
ENTRYPOINT ["tidegate"]

FROM runtime AS steps
COPY --from=steps-environment /opt/tidegate /opt/tidegate

FROM runtime AS server
COPY --from=server-environment /opt/tidegate /opt/tidegate
