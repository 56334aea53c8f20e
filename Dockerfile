# syntax=docker/dockerfile:1
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/chat-gateway
COPY requirements.txt ./
RUN /opt/chat-gateway/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY requirements-dev.txt pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY policies policies
# The build backend is locked like everything else; it stays behind in this stage.
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements-dev.txt \
 && /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
 && /opt/chat-gateway/bin/pip install --no-cache-dir --no-deps /dist/*.whl

FROM python:3.11-slim
COPY --from=build /opt/chat-gateway /opt/chat-gateway
USER 10001:10001
WORKDIR /etc/chat-gateway
EXPOSE 8080 8081
ENTRYPOINT ["/opt/chat-gateway/bin/chat-gateway"]
CMD ["serve", "--config", "/etc/chat-gateway/gateway.yaml"]
