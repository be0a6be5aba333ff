#!/bin/sh
# Makes the quantised plans of an embedded pipeline, w8a8 and w4a8, puts them where they ship, and certifies them. Stopped,
# it goes on where it was. A plan that has a report is left alone: remove schedules/plans/MODEL/PRESET/report.json.
#
#     sh benchmarks/quantise_embedded.sh emoji-pixart
set -eu
cd "$(dirname "$0")/.."
model=${1:-emoji-pixart}
work=${2:-outputs/quant}
# Layers that see text alone are soon fitted to the few texts they were shown; 8 bits have little to learn.
case $model in
    emoji-wan) few=4 many=12 ;;
    *) few=16 many=64 ;;
esac
# A UNet is mostly convolutions: in 8 bits it would be 2.5 times smaller than in bf16, in 4 bits it is 3.6 times.
case $model in
    emoji-sd) convs=w4a8 many=24 few=8 ;;
    *) convs=w8a8 ;;
esac
for bits in w8a8 w4a8; do
    shipped=schedules/plans/$model/$bits
    [ -f "$shipped/report.json" ] && continue
    if [ $bits = w8a8 ]; then
        python -m dit_accel quantize "$model" --bits w8a8 --num-prompts $few -o "$work/$model/w8a8"
    else
        python -m dit_accel quantize "$model" --bits w4a8 --convs $convs --num-prompts $many -o "$work/$model/w4a8"
    fi
    mkdir -p "$shipped"
    cp "$work/$model/$bits"/dit_accel_plan.* "$shipped/"
    chmod 644 "$shipped"/*
done
[ "${CERTIFY:-yes}" = no ] || exec sh benchmarks/certify_presets.sh "$model"
