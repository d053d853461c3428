#!/bin/sh
# Take a picture of a report, as the README and docs/labelling.md show them; .png or .webp:
#
#   sh scripts/picture.sh REPORT.html OUT [PART [VIEW]]
#
# PART is the section to show alone (frames, time, evicted, ...; default: all, from the top), VIEW what lies over the pictures
# (nothing, new, clusters). Needs Chromium (Debian: apt-get install chromium), and for .webp a python3 with Pillow.
set -eu
page=$(realpath "$1")
out=$(realpath -m "$2")
part=${3:-}
view=${4:-new}
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
    echo "geal-edge: no Chromium found. Install it with: apt-get install chromium" >&2
    exit 3
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
height=1560
alone=
if [ -n "$part" ]; then
    height=840
    # Hidden, not scrolled past: headless Chromium takes the picture from the top of the page.
    alone="<style>main > :not(#$part) { display: none } section { margin-top: 2rem }</style>"
fi
# What a reader does by hand before looking: choose the view, open what is folded.
sed -e 's/ id="over-new" checked/ id="over-new"/' -e "s/ id=\"over-$view\"/& checked/" -e 's/<details class="evicted"/& open/' \
    -e "s|</head>|$alone&|" "$page" >"$work/page.html"
"$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --user-data-dir="$work/profile" --window-size=1280,$height \
    --screenshot="$work/shot.png" "file://$work/page.html" 2>/dev/null
case $out in
    *.webp) python3 -c 'import sys; from PIL import Image; Image.open(sys.argv[1]).save(sys.argv[2], quality=80, method=6)' "$work/shot.png" "$out" ;;
    *) mv "$work/shot.png" "$out" ;;
esac
echo "$out"
