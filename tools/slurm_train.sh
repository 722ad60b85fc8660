#!/usr/bin/env bash
# Trains on a Slurm cluster, one torchrun a node: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of
# tools/train.py]. Settings: NODES (1), GPUS_PER_NODE (8), CPUS_PER_NODE (40), PORT (29500), SRUN_ARGS.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 PARTITION JOB_NAME CONFIG [options of tools/train.py]" >&2
  exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
shift 3
export GPUS_PER_NODE=${GPUS_PER_NODE:-8} PORT=${PORT:-29500}
# SRUN_ARGS is a list of arguments and must split; the quoted part runs on the nodes, where Slurm sets its variables.
# shellcheck disable=SC2086,SC2016
srun -p "$PARTITION" --job-name="$JOB_NAME" --nodes="${NODES:-1}" --ntasks-per-node=1 \
  --gres="gpu:$GPUS_PER_NODE" --cpus-per-task="${CPUS_PER_NODE:-40}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
  bash -c 'python -m torch.distributed.run \
    --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" --nproc-per-node "$GPUS_PER_NODE" \
    --master-addr "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)" --master-port "$PORT" \
    -m mmext.tools.train "$@" --launcher pytorch' train "$CONFIG" "$@"
