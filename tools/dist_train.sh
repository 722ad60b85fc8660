#!/usr/bin/env bash
# Trains with several processes: tools/dist_train.sh CONFIG NUM_PROCESSES [options of tools/train.py]
# Several machines: run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG NUM_PROCESSES [options of tools/train.py]" >&2
  exit 2
fi
CONFIG=$1
NUM_PROCESSES=$2
shift 2
# torchrun gives each process one thread; on the CPU the cores are shared out instead.
THREADS=$(($(getconf _NPROCESSORS_ONLN) / NUM_PROCESSES))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((THREADS > 0 ? THREADS : 1))}
python -m torch.distributed.run \
  --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" \
  --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${PORT:-29500}" \
  --nproc-per-node "$NUM_PROCESSES" \
  -m mmext.tools.train "$CONFIG" --launcher pytorch "$@"
