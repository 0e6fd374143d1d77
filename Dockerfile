# Build: a static-pie binary, so that the image needs nothing but roots and a user.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
ENV RUSTFLAGS="-C target-feature=+crt-static"
# Static linking needs the target named; the build machine's own is the image's.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
    && cargo build --profile dist --locked --bin countersign --target "$target" \
    && cp "target/$target/dist/countersign" /countersign

FROM debian:bookworm-slim AS roots
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates

FROM scratch
COPY --from=roots /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /countersign /countersign
# Nothing is ever written: run it with a read-only root and no capabilities.
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s CMD ["/countersign", "healthcheck", "--ready"]
ENTRYPOINT ["/countersign"]
CMD ["run"]
