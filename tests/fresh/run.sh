#!/usr/bin/env bash
# A stranger's first hour: clone into an empty folder, with empty caches, and run the README's two commands.
# By hand before a release, and in CI when the lock changes. Takes the committed state of this checkout.
set -euo pipefail
source_checkout=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

git clone --quiet "$source_checkout" "$folder/kip"
cd "$folder/kip"
export XDG_CACHE_HOME="$folder/cache" UV_CACHE_DIR="$folder/cache/uv" PIP_CACHE_DIR="$folder/cache/pip"

echo "== make demo, everything fetched"
time make demo
echo "== make demo again"
time make demo
echo "== make test"
time make test

left=$(pgrep -af "$folder" | grep -v pgrep || true)
if [ -n "$left" ]; then
  printf 'left running:\n%s\n' "$left"
  exit 1
fi
echo "fresh: both commands work from nothing, and nothing is left running"
