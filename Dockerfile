# The server in a container; docs/deployment.md says how to run it.

FROM docker.io/library/python:3.13-slim-bookworm AS build
WORKDIR /src
# Nothing gets in whose hash is not in these files; "make lock" renews them.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/build && python -m venv /opt/nanomdm \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-build.lock \
    && /opt/nanomdm/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY nanomdm nanomdm
COPY twisted twisted
# twistd notes once which plugins there are; later it may not write there.
RUN /opt/build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /opt/nanomdm/bin/pip install --no-index --no-deps /wheel/*.whl \
    && /opt/nanomdm/bin/twistd --help >/dev/null

FROM docker.io/library/python:3.13-slim-bookworm
COPY --from=build /opt/nanomdm /opt/nanomdm
RUN groupadd --gid 10001 nanomdm \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/nanomdm \
        --shell /usr/sbin/nologin nanomdm \
    && install -d -o 10001 -g 10001 -m 700 /var/lib/nanomdm
ENV PATH=/opt/nanomdm/bin:$PATH
# For --listen elsewhere or with TLS: name --metrics-listen here, it has /healthz too.
ENV HEALTH_URL=http://127.0.0.1:9000/healthz
USER 10001:10001
# The SQLite database, unless --storage-dsn says something else.
WORKDIR /var/lib/nanomdm
VOLUME /var/lib/nanomdm
EXPOSE 9000
# Without a proxy, whatever the environment says.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(os.environ['HEALTH_URL'], timeout=4)"]
ENTRYPOINT ["twistd", "-n", "--pidfile=", "nanomdm"]
