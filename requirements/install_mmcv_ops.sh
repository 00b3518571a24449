#!/usr/bin/env bash
# Install mmcv with its ops into the environment of PYTHON, built against the torch that is there.
#
#   PYTHON=.venv/bin/python requirements/install_mmcv_ops.sh
#
# PINS is the file of pinned versions that names mmcv, or onedl-mmcv.
# The build takes some 12 minutes on two cores, so its wheel is kept, by the versions that it
# depends on. pip's own cache is left out: it may hold a wheel without ops, under the same name.
set -euo pipefail

PYTHON=${PYTHON:-python}
here=$(cd "$(dirname "$0")" && pwd)
mmcv=$(grep -E '^(onedl-)?mmcv==' "${PINS:-$here/constraints.txt}")

import_ops() { "$PYTHON" -c 'import mmcv.ops'; }
if import_ops 2>/dev/null; then exit 0; fi

# Without nvcc the ops are built for the CPU, whether or not there is a GPU.
if ! command -v nvcc >/dev/null && [ -z "${CUDA_HOME:-}" ]; then export CUDA_VISIBLE_DEVICES=; fi
key=${mmcv/==/-}-$("$PYTHON" - <<'PY'
import platform, sys, torch
device = f'cu{torch.version.cuda}' if torch.cuda.is_available() else 'cpu'
abi = int(torch.compiled_with_cxx11_abi())
print(f'torch-{torch.__version__}-abi{abi}-{device}-{sys.implementation.cache_tag}-{platform.machine()}')
PY
)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mmfixnorm/wheels/$key

if ! ls "$cache"/*.whl >/dev/null 2>&1; then
    echo "Building the ops of $mmcv against the installed torch: some 12 minutes on two cores."
    mkdir -p "$(dirname "$cache")"
    build=$(mktemp -d "$cache.XXXXXX")
    trap 'rm -rf "$build"' EXIT
    # -g0: debug information is 40 % of the time otherwise. PATH: torch looks for ninja there.
    PATH=$(cd "$(dirname "$(command -v "$PYTHON")")" && pwd):$PATH \
    CFLAGS=-g0 CXXFLAGS=-g0 MAX_JOBS=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)} \
        "$PYTHON" -m pip wheel --no-cache-dir --no-deps --no-build-isolation \
        --no-binary "${mmcv%%==*}" --wheel-dir "$build" "$mmcv"
    [ -e "$cache" ] || mv "$build" "$cache" # another build may have been first: same wheel
fi
"$PYTHON" -m pip install --no-deps --force-reinstall "$cache"/*.whl
import_ops || { echo "mmcv's ops do not import, see above; if the wheel is at fault, remove $cache and try again" >&2; exit 1; }
