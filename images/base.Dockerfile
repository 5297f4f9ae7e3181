# The base image: Tidegate with everything that pipeline steps and the model server need, on CPU. Build it with `make image`.
FROM python:3.11-slim-bookworm AS build
COPY requirements/bootstrap.txt requirements/build.txt requirements/core.txt /requirements/
RUN python -m venv /opt/tidegate \
 && /opt/tidegate/bin/pip install --no-cache-dir --require-hashes --requirement /requirements/bootstrap.txt \
 && /opt/tidegate/bin/uv pip install --no-cache --python /opt/tidegate/bin/python --require-hashes \
      --build-constraints /requirements/build.txt --requirement /requirements/core.txt
COPY pyproject.toml README.md LICENSE /source/
COPY tidegate /source/tidegate
RUN /opt/tidegate/bin/uv pip install --no-cache --python /opt/tidegate/bin/python --no-deps \
      --build-constraints /requirements/build.txt /source

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --create-home tidegate
COPY --from=build /opt/tidegate /opt/tidegate
ENV PATH=/opt/tidegate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /project
USER 10001
ENTRYPOINT ["tidegate"]
