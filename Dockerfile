# syntax=docker/dockerfile:1
# The service in a small image: `docker build -t model-asynch .`, then
# `docker run -p 8080:8080 -e MODEL_ASYNCH__AUTH__MODE=gateway model-asynch`.

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive the build, the folder target does not: the binary is copied out of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/model-asynch /model-asynch

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home model-asynch \
    && install -d -o model-asynch -g model-asynch /app /app/data /app/oss
COPY --from=build /model-asynch /usr/local/bin/model-asynch
USER model-asynch
WORKDIR /app
# Loopback inside of a container reaches nobody. Beyond loopback auth.mode must not be anonymous,
# so the service says what to set instead of starting open to everyone.
ENV MODEL_ASYNCH__SERVER__ADDRESS=0.0.0.0:8080
VOLUME /app/data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["model-asynch", "healthcheck"]
ENTRYPOINT ["model-asynch"]
