# Built and run:  docker build -t syncd .
#   docker run -e SYNCD_SECRET_KEYS -e SYNCD_DATABASE__URL -e SYNCD_HTTP__TOKEN -p 127.0.0.1:8080:8080 syncd
# It binds 0.0.0.0, so it wants the token, or SYNCD_HTTP__ACCESS=probes: without either it ends with one line.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY deploy/constraints.txt deploy/
COPY migrations migrations
COPY syncd syncd
RUN python -m venv /opt/syncd && /opt/syncd/bin/pip install --no-cache-dir -c deploy/constraints.txt '.[pgqueuer]'

FROM python:3.13-slim
RUN useradd --system --create-home --home-dir /var/lib/syncd --uid 10001 syncd
COPY --from=build /opt/syncd /opt/syncd
# MALLOC_ARENA_MAX: SQLite's threads otherwise each keep freed memory for themselves
ENV PATH=/opt/syncd/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MALLOC_ARENA_MAX=2 SYNCD_HTTP__HOST=0.0.0.0
USER syncd
WORKDIR /var/lib/syncd
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["syncd"]
CMD ["serve", "--migrate"]
