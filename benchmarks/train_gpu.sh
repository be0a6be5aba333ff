#!/usr/bin/env bash
# Trains all embedded pipelines on a GPU machine that has PyTorch and transformers, but neither network nor diffusers.
#
#   benchmarks/train_gpu.sh prepare    here, with network: wheels and packed data into .gpu/ (30 MB)
#   benchmarks/train_gpu.sh smoke      there: some steps of every stage, in a minute or two, to see that all is in place
#   benchmarks/train_gpu.sh train      there: train for MINUTES, send what is finished; call again until all is sent
#   benchmarks/train_gpu.sh collect    there: only send the next parts; with names, send those pipelines again
#   benchmarks/train_gpu.sh rehearse   here, on the CPU: prepare, then two calls of train with a few steps of the CPU
#                                      recipes, wheels, packed data, time budget, resume and sending included
#
# With the tool `run`, which copies the working tree and the ignored paths named in `carry` (64 MiB together):
#   once here:   benchmarks/train_gpu.sh prepare
#   first call:  run(command="benchmarks/train_gpu.sh smoke && MINUTES=6 benchmarks/train_gpu.sh train",
#                    carry=[".gpu"], timeout_s=600)
#   then, within the seconds for which the machine stays warm, as often as needed:
#                run(command="benchmarks/train_gpu.sh train", carry=[".gpu"], timeout_s=600)
# Checkpoints are too large to come back: they stay on the warm machine in runs/gpu, and are lost with it. Weights come
# back in $OUT in parts of 14 MiB; here: cat NAME.tar.* | tar x gives final/, and logs.tar.gz the logs and sheets.
# A tree above 64 MiB does not travel: leave shipped weights at home, they are not needed when all are trained:
#   git sparse-checkout set --no-cone '/*' '!/dit_accel/embedded/emoji-*/'; afterwards: git sparse-checkout disable
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

KIT=${KIT:-.gpu}             # wheels and data
RUNS=${RUNS:-runs/gpu}       # checkpoints; ignored by git, so it stays on the machine between calls
OUT=${OUT:-$RUNS/out}        # what comes back
PYTHON=${PYTHON:-python3}
PY_VERSION=${PY_VERSION:-3.12}  # of the GPU machine
DEVICE=${DEVICE:-cuda}
SIZE=${SIZE:-gpu}
SCALE=${SCALE:-1}            # of all steps
MINUTES=${MINUTES:-7.5}      # of a 10-minute call: a stage that begins at the end compiles for two more
OPTIONS=${OPTIONS:-}         # more options for train-embedded
NAMES=${NAMES:-all}
PART_MIB=14 PARTS=4          # a call may return 8 files of 16 MiB, 64 MiB together

# Not on that machine; everything else that dit-accel needs is.
WHEELS="diffusers importlib_metadata zipp pydantic pydantic_core annotated-types typing_extensions typing-inspection"

prepare() {
  mkdir -p "$KIT/wheels"
  local pinned=() name version
  for name in $WHEELS; do
    version=$($PYTHON -c "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))" "$name")
    pinned+=("$name==$version")
  done
  $PYTHON -m pip download -q --no-deps --only-binary=:all: --implementation cp --python-version "$PY_VERSION" \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    -d "$KIT/wheels" "${pinned[@]}"
  $PYTHON -m dit_accel train-embedded $NAMES --size gpu --pack "$KIT/emoji.pack"
  du -sh "$KIT"
}

install() {
  local site
  site=$(dirname "$RUNS")/site
  mkdir -p "$RUNS" "$OUT" "$site"
  if [ ! -e "$site/.complete" ]; then
    $PYTHON -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --find-links "$KIT/wheels" \
      --target "$site" $WHEELS
    touch "$site/.complete"
  fi
  export PYTHONPATH="$site:."
}

train() {
  install
  local folder=$RUNS
  case $NAMES in all | *" "*) ;; *) folder=$RUNS/$NAMES ;; esac  # of one name, --run-dir is the folder itself
  # shellcheck disable=SC2086
  COLUMNS=160 PYTHONUNBUFFERED=1 $PYTHON -m dit_accel train-embedded $NAMES --size "$SIZE" --device "$DEVICE" --no-measure \
    --data-dir "$KIT/emoji.pack" --run-dir "$folder" --steps-scale "$SCALE" --time-budget "$MINUTES" $OPTIONS 2>&1 |
    tee -a "$RUNS/train.log"
  collect
}

# Put the next parts of finished pipelines into $OUT, with logs and the last sheet of every stage.
collect() {
  local done_file name part sent=0 stage
  mkdir -p "$OUT" "$RUNS/outbox/sent"
  for name in "$@"; do rm -f "$RUNS/outbox/$name.tar."* "$RUNS/outbox/sent/$name.tar."*; done
  for done_file in "$RUNS"/*/export.done.json; do
    [ -e "$done_file" ] || continue
    name=$(basename "$(dirname "$done_file")")
    if ! compgen -G "$RUNS/outbox/$name.tar.*" >/dev/null && ! compgen -G "$RUNS/outbox/sent/$name.tar.*" >/dev/null; then
      tar -C "$RUNS/$name" -cf - final | split -b "${PART_MIB}M" -d - "$RUNS/outbox/$name.tar."
    fi
  done
  for part in "$RUNS"/outbox/*.tar.*; do
    [ -e "$part" ] && [ "$sent" -lt "$PARTS" ] || continue
    cp "$part" "$OUT/"
    : >"$RUNS/outbox/sent/$(basename "$part")"
    rm "$part"
    sent=$((sent + 1))
  done
  (
    cd "$RUNS"
    for stage in vae denoiser guidance decoder; do
      for name in */; do { compgen -G "$name$stage-[0-9]*.png" || true; } | sort | tail -1; done
    done
    ls train.log ./*/*.log.jsonl ./*/final/samples.png 2>/dev/null || true
  ) | tar -C "$RUNS" -czf "$OUT/logs.tar.gz" -T -
  echo "sent $sent parts; $(find "$RUNS/outbox" -maxdepth 1 -type f | wc -l) wait for the next call"
  ls -l "$OUT"
}

smoke() {
  RUNS=${RUNS%/*}/smoke OUT=${RUNS%/*}/smoke/out SCALE=0.002 OPTIONS="--no-compile" MINUTES=3 train
}

rehearse() {
  local version
  version=$($PYTHON -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  KIT=${KIT%/}-rehearsal PY_VERSION=$version
  RUNS=runs/rehearsal/gpu OUT=runs/rehearsal/out DEVICE=cpu SIZE=cpu SCALE=${REHEARSAL_SCALE:-0.001}
  OPTIONS="--no-compile --threads 1"
  prepare
  MINUTES=0.05 train  # the time is up in the middle
  MINUTES=9 train     # goes on
  MINUTES=9 train     # has nothing to do, and sends what is left
}

case ${1:-} in
  prepare | smoke | train | rehearse) "$1" ;;
  collect) shift && collect "$@" ;;
  *) sed -n '2,9p' "${BASH_SOURCE[0]}" && exit 2 ;;
esac
