# The daemon's image. With EXTRAS=train it also fits models; see docs/install.md.
#
#     docker build -t headstart:0.1.0 .
#     docker build -t headstart:0.1.0-train --build-arg EXTRAS=train --build-arg EXTRA_INDEX_URL=<an index of CPU builds of torch> .
#
# Without EXTRA_INDEX_URL the train image carries torch's CUDA libraries, several GB of which nothing is used.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG EXTRAS=""
ARG EXTRA_INDEX_URL=""
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY data data
COPY forecaster forecaster
COPY inference inference
COPY scaler scaler
# An environment without pip: what runs needs none.
RUN python -m venv --without-pip /opt/headstart \
 && pip --python /opt/headstart/bin/python install --no-cache-dir --disable-pip-version-check -c constraints.txt \
      ${EXTRA_INDEX_URL:+--extra-index-url "$EXTRA_INDEX_URL"} ".${EXTRAS:+[$EXTRAS]}"

FROM ${PYTHON_IMAGE}
ARG EXTRAS=""
# LightGBM is linked against OpenMP's runtime, which the slim image lacks.
RUN if [ -n "$EXTRAS" ]; then \
      apt-get update -qq && apt-get install -y -qq --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*; \
    fi \
 && install -d -o 65532 -g 65532 -m 0700 /var/lib/headstart
COPY --from=build /opt/headstart /opt/headstart
# The root file system may be read-only: no bytecode is written, and caches go where /tmp is mounted.
ENV PATH=/opt/headstart/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
WORKDIR /var/lib/headstart
USER 65532:65532
EXPOSE 8090
ENTRYPOINT ["headstart"]
