#!/bin/sh
# Prints a Python of exactly this version that really runs and can make virtual environments, or says on stderr why not.
#
#   scripts/find-python.sh 3.11
set -eu
wanted=$1
refused=

for candidate in "python$wanted" python3 "${PYENV_ROOT:-$HOME/.pyenv}/versions/$wanted".*/bin/python; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    # A version manager's shim can exist and refuse, and Debian's python3 can lack venv: only running it tells.
    if "$candidate" -c "import sys, venv; from ensurepip import bootstrap; sys.exit('%d.%d' % sys.version_info[:2] != '$wanted')" >/dev/null 2>&1; then
        printf '%s\n' "$candidate"
        exit 0
    fi
    refused="$refused $candidate"
done
echo "no Python $wanted that runs and has venv here (tried:${refused:- none})" >&2
exit 1
