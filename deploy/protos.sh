#!/usr/bin/env bash
# Generates multitude/v1 from protos/. With --check it changes nothing and fails if the committed code is stale.
set -euo pipefail
cd "$(dirname "$0")/.."

generate() {  # generate FOLDER
    python -m grpc_tools.protoc --proto_path=protos --python_out="$1" --pyi_out="$1" --grpc_python_out="$1" \
        protos/multitude/v1/*.proto
}

if [ "${1:-}" != --check ]; then
    generate .
    exit
fi
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
generate "$fresh"
if ! diff --recursive --brief --exclude=__init__.py --exclude=__pycache__ "$fresh/multitude/v1" multitude/v1; then
    echo "multitude/v1 is stale: run 'make protos' and commit what changes" >&2
    exit 1
fi
