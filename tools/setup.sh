#!/bin/sh
# Make .venv from requirements.lock, or leave it alone when it already is what the lock asks for.
# PYTHON=/path/to/python names the interpreter to build it with (3.11 or newer).
set -eu
cd "$(dirname "$0")/.."

stamp=.venv/installed
wanted() { pwd; cat requirements.lock pyproject.toml; }
if [ -x .venv/bin/python ] && wanted | cmp -s - "$stamp"; then exit 0; fi

if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.13 python3.12 python3.11; fi
python=
for candidate; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    echo "foreknow needs Python 3.11 or newer; $1 is: $("$1" --version 2>&1 | head -n 1 || true)" >&2
    echo "Install a newer Python, or name one you have: make setup PYTHON=/path/to/python3.11" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "$python comes without its venv module, which make setup needs." >&2
    echo "Install it (on Debian and Ubuntu the package python3-venv), or name another: make setup PYTHON=..." >&2
    exit 1
fi

# An environment that was moved with its folder still points at the old place, so it is made afresh.
if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" != "$(pwd)" ]; then rm -rf .venv; fi
echo "Installing into .venv from requirements.lock (a few minutes the first time)."
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
install() { .venv/bin/python -m pip install -qq --no-input --disable-pip-version-check "$@"; }
# torch chooses its own GPU libraries for each platform, so dependencies are followed beyond the lock.
if ! { install -r requirements.lock && install --no-deps --editable .; }; then
    echo "Installing failed; pip's own message is above. Finished downloads are kept: run make setup again." >&2
    exit 1
fi
wanted > "$stamp"
