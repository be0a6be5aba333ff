#!/bin/sh
# Certifies the plans that ship for an embedded pipeline on the held-out prompts, and puts each back where it ships, with
# its certificate and report. Stopped, it goes on where it was. Run nothing beside it: the times are part of the
# certificate. Plain images are drawn once for all plans of a model, and stay in outputs/plain. A plan that has a report is
# left alone; remove schedules/plans/MODEL/PRESET/report.json to certify it anew.
set -eu
cd "$(dirname "$0")/.."
model=${1:-emoji-pixart}
for shipped in schedules/plans/"$model"/*/; do
    shipped=${shipped%/}
    if [ -f "$shipped/report.json" ]; then
        echo "$shipped is certified"
        continue
    fi
    made=outputs/certify/$model/${shipped##*/}
    [ -f "$made/report.json" ] || python -m dit_accel certify "$model" --plan "$shipped" --plain outputs/plain --threads 1 -o "$made"
    cp "$made"/dit_accel_plan.* "$made/report.json" "$shipped/"
done
