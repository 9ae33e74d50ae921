# syntax=docker/dockerfile:1
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -tags nethttpomithttp2 -trimpath -ldflags "-s -w" -o /out/hooktender . \
 && mkdir -p /out/data /out/tmp && chown 65532:65532 /out/data /out/tmp && chmod 0700 /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/hooktender /hooktender
COPY --from=build --chown=65532:65532 /out/data /data
# For the demo: docker run --rm hooktender demo
COPY --from=build --chown=65532:65532 /out/tmp /tmp
# Everything but /data may be read-only: docker run --read-only
USER 65532:65532
VOLUME /data
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/hooktender", "healthcheck"]
ENTRYPOINT ["/hooktender"]
CMD ["run", "--config", "/etc/hooktender/hooktender.yaml"]
