#!/bin/sh
# Take a picture of what a command shows on a terminal, as docs/eyes.md shows one; .png or .webp:
#
#   sh scripts/terminal.sh OUT COLUMNS ROWS SECONDS COMMAND [ARGUMENT...]
#   sh scripts/terminal.sh docs/status-live.webp 100 28 20 geal-edge status SPOOL --watch
#
# The command runs in a terminal of its own (tmux) for so many seconds; what stands there then is drawn by Chromium. Needs both
# (Debian: apt-get install tmux chromium), and a python3 with rich, and with Pillow for .webp.
set -eu
out=$(realpath -m "$1")
columns=$2 rows=$3 seconds=$4
shift 4
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
    echo "geal-edge: no Chromium found. Install it with: apt-get install chromium" >&2
    exit 3
}
command -v tmux >/dev/null || {
    echo "geal-edge: no tmux found. Install it with: apt-get install tmux" >&2
    exit 3
}
work=$(mktemp -d)
trap 'tmux -S "$work/tmux" kill-server 2>/dev/null; rm -rf "$work"' EXIT
tmux -S "$work/tmux" -u -f /dev/null new-session -d -x "$columns" -y "$rows" "$@"
tmux -S "$work/tmux" set-option -g status off
sleep "$seconds"
tmux -S "$work/tmux" capture-pane -p -e >"$work/text"
python3 - "$work/text" "$work/page.html" "$columns" <<'PYTHON'
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

console = Console(record=True, width=int(sys.argv[3]), file=open("/dev/null", "w"), force_terminal=True)
console.print(Text.from_ansi(Path(sys.argv[1]).read_text()), soft_wrap=True)
page = console.export_html(theme=MONOKAI, inline_styles=True)
style = "body { margin: 0; padding: 16px; } pre { font: 15px/19px 'DejaVu Sans Mono', monospace !important; margin: 0; }"
Path(sys.argv[2]).write_text(page.replace("</head>", f"<style>{style}</style></head>"))
PYTHON
"$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --user-data-dir="$work/profile" \
    --window-size=$((columns * 9 + 40)),$((rows * 19 + 32)) --screenshot="$work/shot.png" "file://$work/page.html" 2>/dev/null
case $out in
    *.webp) python3 -c 'import sys; from PIL import Image; Image.open(sys.argv[1]).save(sys.argv[2], quality=80, method=6)' "$work/shot.png" "$out" ;;
    *) mv "$work/shot.png" "$out" ;;
esac
echo "$out"
