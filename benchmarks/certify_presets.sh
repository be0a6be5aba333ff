#!/bin/sh
# Certifies the presets of an embedded pipeline on all shipped certify prompts, into the folder where `presets show` and
# accelerate_pipeline find them by the preset's name and the model's fingerprint. Stopped, it goes on where it was.
# Run nothing beside it: the times are part of the certificate. About 25 minutes on one idle core for emoji-pixart.
set -eu
cd "$(dirname "$0")/.."
model=${1:-emoji-pixart}
for preset in balanced fast turbo; do
    folder=schedules/plans/$model/$preset
    if [ -f "$folder/dit_accel_plan.json" ] && [ ! -d "$folder/progress" ]; then
        echo "$folder is there already; remove it to certify anew"
        continue
    fi
    python -m dit_accel certify "$model" --preset "$preset" --batch-size 4 --repeats 10 --threads 1 -o "$folder"
done
