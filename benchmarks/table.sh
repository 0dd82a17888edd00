#!/usr/bin/env bash
# Posteriors, bounds, penalties and autoencoders in one network on MNIST, five minutes of training each: one sweep over the
# rows in benchmarks/table, a fitted prior where a row has none, samples against images, one table. About two hours.
#
#     bash benchmarks/table.sh [FOLDER [WORDS…]]   # FOLDER: of the sweep; WORDS: for train.py, as in trainer.max_time=00:00:00:10
#
# Stopped and typed again, it goes on where it was: finished rows are kept. Another seed needs a folder of its own:
# bash benchmarks/table.sh outputs/table_1 seed=1. Needs a classifier: python -m cvae features mnist
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
folder="${1:-outputs/table}"
shift || true
rows=(--config-dir benchmarks/table "experiment=glob(row_*)" "$@")

if [ -e "$folder/multirun.yaml" ]; then rows+=("resume=$folder"); else rows+=("hydra.sweep.dir=$folder"); fi
python train.py -m "${rows[@]}"
for run in "$folder"/[0-9]*row_{autoencoder,rae,rae_gradient}; do
    fitted="$folder/fitted_${run##*row_}"
    if [ ! -e "$fitted/status.json" ]; then python -m cvae fit-prior "$run" prior=gmm --out "$fitted"; fi
done
for run in "$folder"/*/; do
    name="$(basename "${run##*row_}")"
    if [ -e "$folder/fitted_$name" ]; then continue; fi # nothing can be drawn from it, but from the run with its prior
    if ! compgen -G "$run/quality/*.json" >/dev/null; then python -m cvae evaluate "$run" --quality --samples 2000; fi
done
python -m cvae compare "$folder" --all --markdown
