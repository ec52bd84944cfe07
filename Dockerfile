# docker build -t patchbay .                          the embedded base model, or a small one, on a CPU
# docker build -t patchbay:cuda --target cuda .       on an NVIDIA GPU: docker run --gpus all ...
# docker run -v patchbay:/data patchbay keys create ops --scope admin --data-dir /data      a key, printed once
# docker run -p 8000:8000 -v patchbay:/data patchbay                                        needs that key, or
# docker run -p 8000:8000 -v patchbay:/data -e PATCHBAY_ALLOW_ANONYMOUS=1 patchbay          no key: every caller may do all

FROM python:3.11-slim AS base
# vLLM's CPU build links libnuma; torch and triton compile kernels on first use; python graders run in bubblewrap.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app

FROM base AS manifests
COPY pyproject.toml requirements-overrides.txt README.md LICENSE ./
COPY setup setup

FROM manifests AS install-cpu
RUN setup/install cpu

FROM manifests AS install-cuda
RUN setup/install cuda

FROM base AS runtime
RUN useradd --uid 1000 --create-home patchbay && install --directory --owner=patchbay /data
COPY pyproject.toml README.md LICENSE patchbay.py ./
COPY adapters adapters
COPY trainer trainer
COPY server server
COPY bench bench
COPY embedded embedded
ENV PATH=/app/.venv/bin:$PATH HF_HOME=/data/hub PYTHONUNBUFFERED=1
USER patchbay
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready')"]
ENTRYPOINT ["patchbay"]
CMD ["serve", "--host", "0.0.0.0", "--data-dir", "/data"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=install-cuda /app/.venv .venv

FROM runtime AS cpu
COPY --from=install-cpu /app/.venv .venv
