#!/usr/bin/env bash
# Everything that waits for a GPU, in under ten minutes: the GPU tests, then speed at the shapes of large models
# with random weights. Reports go to benchmarks/results/. Rehearse on a CPU: benchmarks/gpu.sh cpu
# benchmarks/gpu.sh quant: layers in few bits at those shapes, beside bf16 and torchao, in a call of its own.
# benchmarks/gpu.sh rivals: plain, cache-dit and all other rivals at those shapes, wall-clock only, in a call of its own.
# benchmarks/gpu.sh attention: every kernel test on the GPU itself, then the sparse kernels against the best dense
# attention; stopped and called again, it goes on with the next shape.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
device=${1:-cuda}
export PYTHONPATH=. HF_HUB_OFFLINE=1
if [ "$device" = cpu ]; then
  exec python benchmarks/speed.py --model pixart-rehearsal --size 128 --repeats 3 --warmup 2 --output /tmp/rehearsal.json
fi
if [ "$device" = quant ]; then
  exec python benchmarks/quant_speed.py --output benchmarks/results/quant-speed-gpu.json
fi
if [ "$device" = rivals ]; then
  exec python benchmarks/rivals --shapes pixart-xl-256,pixart-xl-512,pixart-xl-1024,flux-1024 --steps 20 --quick \
    --images 1 --batch-size 1 --rounds 3 --device cuda --dtype bfloat16 --budget-minutes 9
fi
if [ "$device" = attention ]; then
  python -m pytest -q tests/kernels || echo "kernel tests failed; measuring all the same" >&2
  exec python benchmarks/attention_gpu.py
fi
python -m pytest -q -m gpu tests || echo "GPU tests failed; measuring all the same" >&2
for size in 512 1024; do
  python benchmarks/speed.py --model pixart-xl-2 --size $size --device "$device" --dtype bfloat16 --repeats 8 --warmup 3
done
for size in 512 1024; do
  python benchmarks/speed.py --model flux-1-dev --size $size --steps 28 --device "$device" --dtype bfloat16 --repeats 3 --warmup 2
done
