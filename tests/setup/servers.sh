#!/usr/bin/env bash
# Installs the real servers that the tests start, from Debian's packages, where they are missing. Needs root or sudo
# only for that; with everything in place it does nothing.
set -euo pipefail

declare -A packages=(
  [prometheus]=prometheus [promtool]=prometheus [redis-server]=redis-server [nginx]=nginx [chromium]=chromium
)
missing=()
for command in "${!packages[@]}"; do
  command -v "$command" >/dev/null 2>&1 || [ -x "/usr/sbin/$command" ] || missing+=("${packages[$command]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

sudo=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null 2>&1; then
    echo "make test: missing ${missing[*]}; run as root: apt-get install -y ${missing[*]}" >&2
    exit 1
  fi
  sudo=(sudo)
fi
echo "make test: installing ${missing[*]} from Debian's packages" >&2
# The packages start their services when installed; the tests start their own on free ports, so no service may start.
policy=/usr/sbin/policy-rc.d
placed=
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
  "${sudo[@]}" chmod +x "$policy"
  placed=yes
fi
trap '[ -z "$placed" ] || "${sudo[@]}" rm -f "$policy"' EXIT
"${sudo[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
