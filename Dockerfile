# What is needed to build it stays in the first two stages. docs/image.md says how to run it.

# A tag can be moved: name a digest, or your own registry's copy, with --build-arg PYTHON=...
ARG PYTHON=python:3.11.14-slim-bookworm

# The wheel; its build backend is locked like everything else.
FROM ${PYTHON} AS wheel
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements-dev.txt ./
RUN python -m pip install --require-hashes --only-binary :all: -r requirements-dev.txt
COPY LICENSE README.md pyproject.toml ./
COPY gateway gateway
COPY policies policies
RUN python -m hatchling build -t wheel -d /dist

# What is installed: the lock, the wheel, and no pip.
FROM ${PYTHON} AS installed
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PYTHON=/opt/chat-gateway/bin/python
RUN python -m venv --without-pip /opt/chat-gateway
COPY requirements-otel.txt /
RUN python -m pip install --no-compile --require-hashes --only-binary :all: -r /requirements-otel.txt
COPY --from=wheel /dist/ /dist/
# Compiled now, as nothing can be written later; and whatever becomes of the sources' times in layers, that holds.
RUN python -m pip install --no-compile --no-deps --no-index /dist/*.whl \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/chat-gateway/lib

FROM ${PYTHON}
# Python's own library comes not compiled, and with a pip that nobody needs here.
RUN rm -rf /usr/local/lib/python3.*/site-packages/* /usr/local/lib/python3.*/ensurepip /usr/local/bin/pip* \
 && python -m compileall -q --invalidation-mode unchecked-hash /usr/local/lib/python3.* \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/chat-gateway
COPY --from=installed /opt/chat-gateway /opt/chat-gateway
ENV PATH=/opt/chat-gateway/bin:$PATH PYTHONDONTWRITEBYTECODE=1

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="chat-gateway" \
      org.opencontainers.image.description="A reverse proxy and caching gateway in front of LivePerson's Server Chat API" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"

USER 10001:10001
WORKDIR /etc/chat-gateway
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
  CMD ["/opt/chat-gateway/bin/chat-gateway", "healthcheck"]
ENTRYPOINT ["/opt/chat-gateway/bin/chat-gateway"]
CMD ["serve", "--config", "gateway.yaml"]
