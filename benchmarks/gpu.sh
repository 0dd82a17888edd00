#!/usr/bin/env bash
# On a machine with a GPU: the tests for GPUs, then the benchmarks. Arguments go to the benchmarks that have peers, such as
# --tensorflow PYTHON. RESULTS: the folder for the numbers. PYTHON: the interpreter that has cvae.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
results=${RESULTS:-outputs/benchmarks}
mkdir -p "$results"
"$python" -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "there is no GPU")'

echo "== tests"
"$python" -m pytest -q -n 0 -m gpu

echo "== training steps"
"$python" -m benchmarks.steps --json "$results/steps.json" \
    --ours float32: --ours bf16:trainer.precision=bf16-mixed --ours filters=512:model.filters=512 "$@"

echo "== log p(x), 5,000 samples"
run=$(mktemp -d)/run
trap 'rm -rf "$(dirname "$run")"' EXIT
"$python" train.py trainer.max_epochs=1 evaluation.samples=0 "hydra.run.dir=$run"
time "$python" -m cvae evaluate "$run" --samples 5000

echo "== whole commands"
"$python" -m benchmarks.runs --json "$results/runs.json" "$@"
