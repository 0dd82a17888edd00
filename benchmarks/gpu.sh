#!/usr/bin/env bash
# On a machine with a GPU, in about ten minutes: does all work there as it does on a CPU? A line a check, ok or what is wrong; exit code 1
# where something is. --dry-run only looks whether every command can be parsed, also without a GPU. Words choose checks: gpu.sh tests ddp
# Environment: PYTHON, the interpreter. How fast it is against its goals, in hours: benchmarks/gpu_goals.sh
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" -m benchmarks.gpu "$@"
