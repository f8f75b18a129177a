# The service and the `orderflow` command. Built from uv.lock; only the environment that came out of it is in the image.
#
# Any image with Python 3.11 or newer and its venv module will do, for example one of your own registry.
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# Keep in step with the Makefile.
ARG UV_VERSION=0.13.9
RUN python3 -m venv /uv && /uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check uv==${UV_VERSION}
ENV UV_PROJECT_ENVIRONMENT=/opt/orderflow \
    UV_PYTHON_DOWNLOADS=never \
    UV_NO_CACHE=1
WORKDIR /source
# The libraries first: they stay as they are while only the code changes.
COPY pyproject.toml uv.lock ./
COPY client/pyproject.toml client/
COPY server/pyproject.toml server/
RUN /uv/bin/uv sync --quiet --locked --no-dev --no-install-workspace --python python3
COPY client client
COPY server server
# Compiled here: at run time the root is read-only.
RUN /uv/bin/uv sync --quiet --locked --no-dev --no-editable --compile-bytecode --python python3

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="orderflow-server" \
      org.opencontainers.image.description="An order-processing gRPC service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/orderflow /opt/orderflow
# All that the user may write to: where SQLite keeps its file, orderflow.db unless a setting says otherwise.
RUN mkdir -p /var/lib/orderflow && chown 10001:10001 /var/lib/orderflow
ENV PATH=/opt/orderflow/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/orderflow
VOLUME /var/lib/orderflow
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["orderflow", "health"]
ENTRYPOINT ["orderflow-server"]
CMD ["serve"]
