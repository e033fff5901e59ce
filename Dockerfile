# syntax=docker/dockerfile:1
# The server in a small image, configured by environment (IM_<SECTION>__<KEY>) or file:
#   docker build -t im .
#   docker run -p 8080-8081:8080-8081 -p 50001:50001 -v im-data:/data im

FROM rust:1-slim-bookworm AS build
# The allocator is built with make.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches keep compiled dependencies between builds; the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin im \
    && strip --strip-debug target/release/im -o /im

FROM debian:bookworm-slim
# For rustls, which trusts the system's certificates.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /data im \
    && install --directory --owner=im --group=im /data
COPY --from=build /im /usr/local/bin/im
USER im
# The default paths, data/im.db and data/files, are in the volume when seen from here. A
# configuration is mounted as /im.toml, or named by IM_CONFIG, which the health check reads too.
WORKDIR /
VOLUME /data
# Devices over TCP; WebSocket, files and health; gRPC.
EXPOSE 8080 8081 50001
HEALTHCHECK --interval=10s --timeout=4s --start-period=10s CMD ["im", "healthcheck"]
ENTRYPOINT ["im"]
CMD ["serve"]
