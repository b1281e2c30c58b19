#!/usr/bin/env bash
# Builds `.venv-locust` at the repository's root: Locust with what it needs, pinned in requirements.txt. `make
# locust-env` calls this. It is an environment of its own because gevent replaces the standard library's sockets and
# threads wherever it is imported, and nothing of the product may meet that.
#
#   tests/loadtest/env.sh       build, or do nothing when what is there is up to date
#   PYTHON=python3.11 …         the interpreter to build it with
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
env_dir="${LOCUST_ENV_DIR:-$(cd "$here/../.." && pwd)/.venv-locust}"
wanted="$(cat "${BASH_SOURCE[0]}" "$here/requirements.txt" | sha256sum | cut -d' ' -f1)"
stamp="$env_dir/headstart.stamp"

if [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
    echo "locust-env: $env_dir is up to date"
    exit 0
fi
rm -f "$stamp"
[[ -x "$env_dir/bin/python" ]] || "${PYTHON:-python3}" -m venv "$env_dir"
timeout --kill-after=10 600 "$env_dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --no-deps --requirement "$here/requirements.txt"
"$env_dir/bin/locust" --version >/dev/null
echo "$wanted" >"$stamp"
echo "locust-env: ready in $env_dir"
