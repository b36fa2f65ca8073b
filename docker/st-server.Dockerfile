# The SentenceTransformers server of deploytool, alone: `deploytool image build` gives it its context.
# BASE needs Python 3.11 or newer as python3, with venv, and a shell. TORCH_INDEX: where torch alone is taken
# from (PyTorch's index for processors makes an image without the CUDA libraries); empty: pip's usual index.
ARG BASE=python:3.12.11-slim-bookworm

FROM ${BASE} AS build
ARG TORCH_INDEX=
ARG PIP_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
RUN python3 -m venv /opt/server
COPY requirements.txt /build/requirements.txt
RUN if [ -n "${TORCH_INDEX}" ]; then \
      /opt/server/bin/pip install --no-deps --index-url "${TORCH_INDEX}" "$(grep '^torch==' /build/requirements.txt)"; \
    fi \
    && /opt/server/bin/pip install --requirement /build/requirements.txt \
    && /opt/server/bin/pip uninstall --yes pip
COPY deploytool /build/deploytool
# Compiled here, since the server may write nothing; some packages ship files that no Python compiles.
RUN cp -r /build/deploytool "$(/opt/server/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && { /opt/server/bin/python3 -m compileall -q -j 0 /opt/server/lib > /dev/null || true; } \
    && /opt/server/bin/python3 -c 'import deploytool.st_server.lifecycle, sentence_transformers, torch'

FROM ${BASE}
ARG VERSION=unknown
ARG VARIANT=unknown
LABEL org.opencontainers.image.title="deploytool SentenceTransformers server" \
      org.opencontainers.image.version="${VERSION}" \
      deploytool.variant="${VARIANT}"
COPY --from=build /opt/server /opt/server
ENV PATH=/opt/server/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 65532:65532
WORKDIR /tmp
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "deploytool.st_server"]
