# An image of one static binary, root certificates and a user. One per architecture, each built on a machine of its own
# kind; RELEASING.md puts them together. For a release pin this by digest: --build-arg RUST=rust:1.95.0-bookworm@sha256:…
ARG RUST=rust:1.95.0-bookworm
FROM ${RUST} AS build
# The compiler of the image as it is: rust-toolchain.toml would have rustup fetch formatter and linter first.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
# The flags, and why the result is the same every time, are in the Makefile.
RUN make dist && cp target/*/dist/countersign /countersign

FROM scratch
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="countersign" \
      org.opencontainers.image.description="Authenticates plain HTTP requests to Amazon API Gateway, from a sidecar on localhost" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.source="https://github.com/countersign/countersign" \
      org.opencontainers.image.licenses="Apache-2.0"
# The roots of the pinned build image. Without them countersign would fall back to those of Mozilla's that it carries.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/LICENSE /LICENSE
COPY --from=build /countersign /countersign
# Nothing is ever written: run it with a read-only root and no capabilities.
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s CMD ["/countersign", "healthcheck", "--ready"]
ENTRYPOINT ["/countersign"]
CMD ["run"]
