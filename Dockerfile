# olivebuild and all that its steps need on a processor. Built in the root of a checkout:
#   docker build -t olivebuild .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" -v olivebuild:/cache olivebuild
FROM python:3.11-slim-bookworm AS wheel
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m zipfile --list /wheels/olivebuild-*.whl > /wheels/contents \
    && grep _native.abi3.so /wheels/contents

FROM python:3.11-slim-bookworm
# torch without CUDA, of the version that constraints.txt has; pip's own brings gigabytes more.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu \
        "$(grep '^torch==' /constraints.txt)" \
    && pip install --no-cache-dir --constraint /constraints.txt \
        "$(ls /wheels/olivebuild-*.whl)[build]"
# Any user may run it: `--user` names one that has neither a name nor a home here.
RUN mkdir --mode 1777 /cache /work /home/olivebuild
ENV HOME=/home/olivebuild LOGNAME=olivebuild OLIVEBUILD_CACHE=/cache
USER 1000
WORKDIR /work
VOLUME /cache
ENTRYPOINT ["olivebuild"]
