#!/bin/sh
# Take the picture of a report that the README shows: sh scripts/picture.sh REPORT.html OUT.png
# Needs Chromium (Debian: apt-get install chromium).
set -eu
page=$(realpath "$1")
out=$(realpath -m "$2")
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
    echo "geal-edge: no Chromium found. Install it with: apt-get install chromium" >&2
    exit 3
}
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
"$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --user-data-dir="$profile" --window-size=1280,1560 \
    --screenshot="$out" "file://$page" 2>/dev/null
echo "$out"
