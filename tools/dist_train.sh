#!/usr/bin/env bash
# dist_train.sh CONFIG GPUS [arguments of train.py]: one process per GPU (or per 1, on a CPU).
# Several machines: the same on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -euo pipefail

CONFIG=${1:?config file}
GPUS=${2:?number of processes on this machine}
here=$(cd "$(dirname "$0")" && pwd)

PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}" \
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$here/train.py" "$CONFIG" --launcher pytorch "${@:3}"
