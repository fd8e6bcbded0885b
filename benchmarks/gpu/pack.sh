#!/usr/bin/env bash
# Packs what a GPU machine without a network lacks into .gpu/load_1, .gpu/load_2 ...: wheels, and the scans of LA and ACDC.
#
#   bash benchmarks/gpu/pack.sh [DATA]      DATA holds la/ and acdc/; default: ../shared/data beside the checkout
#
# pip's own resolver chooses the wheels for that machine's Python, with the versions of machine.txt as given; what the
# machine has is left out. Nothing is made smaller: scans are the bytes that `nnunet_ssl convert` reads.
set -euo pipefail
cd "$(dirname "$0")/../.."
data=${1:-../shared/data} python=${PYTHON:-python3} kit=benchmarks/gpu out=.gpu
version=3.12
platforms=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)
for minor in $(seq 5 39); do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done  # pip takes each as it stands
there=(--python-version "$version" --implementation cp --abi "cp${version/./}" --abi abi3 --abi none "${platforms[@]}" --only-binary=:all:)

rm -rf "$out" && mkdir -p "$out/own" "$out/wheels"
"$python" -m venv "$out/tool"
"$out/tool/bin/python" -m pip install -q --upgrade pip
pip=("$out/tool/bin/python" -m pip -q)
# of two the registry has no wheel that serves: both are pure Python
"${pip[@]}" wheel --no-deps -w "$out/own" .
"${pip[@]}" wheel --no-deps -w "$out/own" "acvl-utils>=0.2.3,<0.3"
grep -v '^#' $kit/machine.txt | grep '==' >"$out/constraints.txt"
"${pip[@]}" install --dry-run --ignore-installed --report "$out/resolved.json" --target "$out/nowhere" "${there[@]}" \
  --find-links "$out/own" -c "$out/constraints.txt" nnunet-ssl pytest pytest-xdist hypothesis hatchling editables
"$python" $kit/loads.py missing "$out/resolved.json" $kit/machine.txt >"$out/missing.txt"
"${pip[@]}" download --no-deps "${there[@]}" --find-links "$out/own" -d "$out/wheels" -r "$out/missing.txt"
"$python" $kit/loads.py fill "$out" "$out/wheels" "$data"
rm -rf "$out/tool" "$out/own" "$out/wheels"
