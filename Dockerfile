# The images of Trainyard.
#
#   docker build --target operator --tag trainyard-operator:0.1.0 .
#   docker build --target trainer --tag trainyard-trainer:0.1.0 .
#
# PYTHON_DIGEST pins the base image by content: --build-arg PYTHON_DIGEST=@sha256:...

ARG PYTHON_VERSION=3.11.14
ARG PYTHON_DIGEST=

FROM python:${PYTHON_VERSION}-slim-bookworm${PYTHON_DIGEST} AS builder
ENV PYTHONDONTWRITEBYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN ["python", "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", "uv==0.13.9"]
WORKDIR /source
COPY --chown=0:0 pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=0:0 api ./api
COPY --chown=0:0 operator ./operator
COPY --chown=0:0 trainer ./trainer
RUN ["uv", "build", "--no-cache", "--wheel", "--out-dir", "/wheels", "/source"]

FROM builder AS operator-environment
RUN ["uv", "venv", "/opt/trainyard"]
RUN ["uv", "pip", "install", "--no-cache", "--compile-bytecode", "--python", "/opt/trainyard/bin/python", \
     "--constraints", "constraints.txt", \
     "trainyard[operator] @ file:///wheels/trainyard-0.1.0-py3-none-any.whl"]

# DeepSpeed comes as source, and its build needs neither a compiler nor PyTorch.
FROM builder AS trainer-environment
RUN ["uv", "venv", "/opt/trainyard"]
RUN ["uv", "pip", "install", "--no-cache", "--compile-bytecode", "--python", "/opt/trainyard/bin/python", \
     "--constraints", "constraints.txt", \
     "trainyard[trainer] @ file:///wheels/trainyard-0.1.0-py3-none-any.whl"]

FROM python:${PYTHON_VERSION}-slim-bookworm${PYTHON_DIGEST} AS runtime
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PATH=/opt/trainyard/bin:$PATH
WORKDIR /tmp
USER 10001:10001

FROM runtime AS operator
ARG REVISION=unknown
LABEL org.opencontainers.image.title="trainyard-operator" \
      org.opencontainers.image.description="Runs TrainingRuns on Kubernetes" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=operator-environment --chown=0:0 /opt/trainyard /opt/trainyard
EXPOSE 8080 8443
ENTRYPOINT ["python", "-m", "trainyard_operator"]

FROM runtime AS trainer
ARG REVISION=unknown
LABEL org.opencontainers.image.title="trainyard-trainer" \
      org.opencontainers.image.description="Prepares, trains and exports language models" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=trainer-environment --chown=0:0 /opt/trainyard /opt/trainyard
ENTRYPOINT ["python", "-m", "trainyard_trainer"]
