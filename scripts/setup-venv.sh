#!/bin/sh
# Makes the virtual environment that a make target needs: exactly the packages of a lock, and this project, editable.
#
#   scripts/setup-venv.sh VENV LOCK [EXTRA]
#
# PYTHON names the interpreter (default: python3). Does nothing while lock, interpreter and pyproject.toml are unchanged:
# their digests stand in VENV, written last, so a set-up that was cut off starts again. Of a lock only wheels are
# installed, so no compiler is needed. EXTRA is an extra of pyproject.toml that no lock covers (oracle; rtx,openvino).
set -eu
cd "$(dirname "$0")/.."

venv=$1
lock=$2
extra=${3:-}
python=${PYTHON:-python3}

say() { printf 'geal-edge: %s\n' "$*"; }
fail() { printf 'geal-edge: %s\n' "$@" >&2; exit 1; }

# A name alone proves nothing: a version manager's shim can be there and refuse to run.
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || fail \
    "'$python' does not run. geal-edge needs Python 3.10 or newer." \
    "On Debian or Ubuntu: apt-get install python3 python3-venv. Or name one: make PYTHON=/path/to/python3 ..."
case $version in
    3.1[0-9] | 3.[2-9][0-9]) ;;
    *) fail "'$python' is Python $version. geal-edge needs 3.10 or newer: make PYTHON=/path/to/python3 ..." ;;
esac

# Inside an activated environment python3 may be the one that is about to be replaced: take what it was made from.
python=$("$python" -c 'import sys; print(getattr(sys, "_base_executable", None) or sys.executable)')

digest() {  # of standard input, of this interpreter, and of where the environment stands
    "$python" -c 'import hashlib, os, sys
parts = [sys.stdin.buffer.read(), sys.version.encode(), *map(os.fsencode, (sys.executable, os.getcwd(), *sys.argv[1:]))]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())' "$venv" "$extra"
}
packages=$(cat "$lock" scripts/setup-venv.sh | digest)
project=$(digest <pyproject.toml)

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

install_project() {
    pip install -qq --no-build-isolation --no-deps --editable . || fail "geal-edge itself could not be installed (see above)."
    if [ -n "$extra" ]; then
        say "installing the extra '$extra'"
        # Of the project that is there by now. tensorrt-rtx has no wheel, and what makes one (setuptools, wheel) is not in this
        # environment: pip builds it in one of its own.
        pip install -qq "geal-edge[$extra]" || fail "The extra '$extra' could not be installed (see above)."
    fi
    printf '%s\n' "$project" >"$venv/.project"
}

is() { [ "$(cat "$1" 2>/dev/null)" = "$2" ]; }
if is "$venv/.packages" "$packages" && "$venv/bin/python" -c '' 2>/dev/null; then
    is "$venv/.project" "$project" || install_project
    exit 0
fi

# Debian and Ubuntu ship Python without these two.
"$python" -c 'import venv; from ensurepip import bootstrap' 2>/dev/null || fail \
    "Python $version cannot make virtual environments here: its 'venv' or 'ensurepip' module is missing." \
    "On Debian or Ubuntu: apt-get install python3-venv (or python$version-venv)."

say "making $venv with Python $version"
"$python" -m venv --clear "$venv" || fail \
    "The virtual environment could not be made (see above). On Debian or Ubuntu: apt-get install python$version-venv."

say "installing the packages of $lock (some 200 MB, unless pip has them in its cache)"
pip install -qq --no-compile --require-hashes --only-binary :all: --requirement "$lock" || fail \
    "The locked packages could not be installed (see above): either pip reaches no package registry," \
    "or one of them has no wheel for Python $version on this machine; then name another Python: make PYTHON=/path/to/python3 ..."

install_project
printf '%s\n' "$packages" >"$venv/.packages"
