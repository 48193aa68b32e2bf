#!/usr/bin/env bash
# Proves docker compose for real: builds the images, brings the services up with two workers, publishes an adapter, gets
# a right answer through the client's container, loses a worker, gets another one, and takes everything down.
#
# Needs a Docker daemon with compose. WHEELS and PIP_OPTIONS are passed to the build.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PORT=${PORT:-17000} STORE_PORT=${STORE_PORT:-17001} COMPOSE_PROJECT_NAME=multitude-e2e

compose() { docker compose -f docker-compose.yml -f deploy/compose/two-workers.yml "$@"; }
client() { compose run --rm --quiet-pull client "$@"; }
say() { printf '[compose %4ss] %s\n' "$SECONDS" "$*"; }
finish() {
    local code=$?
    [ "$code" = 0 ] || compose logs --tail 30 || true
    compose down --volumes --timeout 5 >/dev/null 2>&1 || true
    exit "$code"
}
trap finish EXIT

say "building"
compose --profile client build --quiet
say "starting"
compose up --detach --wait
client adapters add demo/reverse /adapters/reverse
check() {  # check PROMPT ANSWER
    local answer
    answer=$(client generate "$1" --adapter demo/reverse --temperature 0)
    [ "$(echo "$answer" | tr -d '[:space:]')" = "$2" ] || { say "'$1' gave '$answer', not '$2'"; exit 1; }
}
check 'k3Fa=>' 'aF3k'
say "right answer through the client's container"
client status
[ "$(client --json status | python3 -c 'import json, sys; print(len(json.load(sys.stdin)["workers"]))')" = 2 ]
curl --fail --silent "http://127.0.0.1:${METRICS_PORT:-7090}/metrics" | grep -q 'multitude_adapter_requests_total{adapter="demo/reverse"'
say "metrics"
compose kill worker >/dev/null
check 'ab7x=>' 'x7ba'
say "right answer after a worker was lost"
user=$(compose exec worker-2 id -u)
[ "$user" != 0 ] || { say "the worker runs as root"; exit 1; }
if compose exec worker-2 sh -c 'echo x > /app/x' 2>/dev/null; then say "the worker can write its file system"; exit 1; fi
say "non-root, read-only file systems"
