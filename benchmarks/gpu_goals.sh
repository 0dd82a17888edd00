#!/usr/bin/env bash
# One command on a machine with a GPU: the tests that need one, the tables, and which goals fall short (exit code 1).
# Arguments: only these parts, of tests steps wide nll runs scaling profile train evaluate resnet_mnist cifar10. OUT=FOLDER adds to a folder.
# Environment: PYTHON, TENSORFLOW and PYTHAE: interpreters. CIFAR10: overrides for the run of cifar10, such as a folder of a subset.
# DRY=1 goes the same way on a CPU, with a few images and no long runs.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=${OUT:-outputs/benchmarks/$(date +%Y-%m-%d_%H-%M-%S)}
parts=" ${*:-tests steps wide nll runs scaling profile train evaluate resnet_mnist cifar10} "
mkdir -p "$out"
peers=(--tensorflow "${TENSORFLOW:-benchmarks/.venv/tensorflow/bin/python}" --pythae "${PYTHAE:-benchmarks/.venv/pythae/bin/python}")
read -ra cifar10 <<< "${CIFAR10:-}"

if [[ -n ${DRY:-} ]]; then
    device=cpu images=320 wide=(model.filters=32) wide_images=64 rounds=1 epochs=1 samples=10 count=100
    short=(trainer.max_epochs=1 +trainer.limit_train_batches=1 +trainer.limit_test_batches=1 +trainer.limit_val_batches=1)
else
    device=gpu images=32000 wide=(experiment=tf_tutorial_512) wide_images=6400 rounds=10 epochs=10 samples=5000 count=10000
    short=()
    "$python" -c 'import torch; assert torch.cuda.is_available(), "there is no GPU here: DRY=1 goes the same way on a CPU"' || exit 2
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
fi

part() { # NAME COMMAND …: runs it if the part is wanted; its seconds and its exit status go into a file, for the goals
    local name=$1 started status=0
    shift
    [[ $parts == *" $name "* ]] || return 0
    echo "== $name: $*"
    started=$(date +%s%N)
    "$@" || status=$?
    printf '%s\t%se-9\t%s\n' "$name" "$(($(date +%s%N) - started))" "$status" >> "$out/commands.tsv"
}

gpu_tests() { # skipped tests confirm nothing
    "$python" -m pytest -q -n 0 -m gpu | tee "$out/tests.txt" && grep -q ' passed' "$out/tests.txt"
}

bf16="trainer=$device trainer.precision=bf16-mixed"
measured=("${peers[@]}" --rounds "$rounds")

part tests gpu_tests
part steps "$python" -m benchmarks.steps "${measured[@]}" --images "$images" --json "$out/steps.json" \
    --ours "float32:trainer=$device" --ours "bf16:$bf16"
part wide "$python" -m benchmarks.steps "${measured[@]}" --only ours --images "$wide_images" --json "$out/wide.json" \
    --ours "512:${wide[*]} $bf16" --ours "512, batch 512:${wide[*]} $bf16 data.batch_size=512"
part nll "$python" -m benchmarks.nll "${measured[@]}" --json "$out/nll.json" --ours "float32:trainer=$device" ${DRY:+--more=}
part runs "$python" -m benchmarks.runs "${peers[@]}" --rounds "${DRY:-3}" --epochs "$epochs" --json "$out/runs.json" \
    --only "ours,first-step,help,libraries${DRY:-,tensorflow}" --ours "float32:trainer=$device ${short[*]-}"
part scaling "$python" -m benchmarks.scaling --rounds "${DRY:-3}" --scale "$((images / 1600 + 1))" --json "$out/scaling.json" \
    ${DRY:+--quick --only latent_dim} "trainer=$device"
part profile "$python" -m benchmarks.profile --json "$out/profile.json" --steps "$((images / 64))" "trainer=$device"
part train "$python" train.py "trainer=$device" "${short[@]}" "hydra.run.dir=$out/tutorial"
part evaluate "$python" -m cvae evaluate "$out/tutorial" --samples "$samples" --images "$count"
for name in resnet_mnist cifar10; do
    chosen=("experiment=$name" "trainer=$device")
    [[ $name == cifar10 ]] && chosen+=("${cifar10[@]}")
    part "$name" "$python" train.py "${chosen[@]}" "${short[@]}" "hydra.run.dir=$out/$name"
done

[[ -n ${DRY:-} ]] && echo "A dry run on a CPU, with little to do: that a goal is met means nothing here."
"$python" -m benchmarks.goals gpu "$out"
