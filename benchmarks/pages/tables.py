"""The tables that a page may ask for, by the name in its comment."""

from pathlib import Path
from typing import Any

from dit_accel.errors import ConfigError
from dit_accel.evaluation.reports.report import Report
from pages.assembly import assembly_block
from pages.attention import (
    attention_gpu_block,
    attention_papers,
    attention_quality_block,
    attention_times_block,
)
from pages.distill import distill_block
from pages.ecad import ecad_block
from pages.erw import erw_block
from pages.families import ask_families, not_asked, own_passes
from pages.family_tables import families_block, groups_block, kinds_block, passes_block
from pages.glance import glance_block
from pages.linear import linear_block
from pages.markers import Table
from pages.measured import if_measured
from pages.parallel import parallel_block, simulator_block
from pages.parallel_plan import COMMAND as PARALLEL_PLAN
from pages.parallel_plan import FILE as PARALLEL_PLAN_FILE
from pages.parallel_plan import parallel_plan_block
from pages.quant import quant_tables
from pages.reports import quality_block, results_block, speed_block
from pages.techniques import techniques_block
from pages.theory import theory_block
from pages.transfer import transfer_block
from pages.values import load
from pages.zoo import zoo_block


def _report(*paths: Path) -> Report:
    if len(paths) != 1:
        raise ConfigError(f"this table is of one report, not of {len(paths)}")
    report = load(paths[0])
    if not isinstance(report, Report):
        raise ConfigError(f"'{paths[0].name}' is not a report")
    return report


def _json(*paths: Path) -> dict[str, Any]:
    data = load(paths[0]) if len(paths) == 1 else None
    if not isinstance(data, dict):
        raise ConfigError("this table is of one file that is no report")
    return data


TABLES: dict[str, Table] = {
    "certificates": lambda paths: results_block([_report(path) for path in paths]),
    "glance": lambda paths: glance_block([_report(path) for path in paths]),
    "quality": lambda paths: quality_block(_report(*paths)),
    "speed": lambda paths: speed_block(_report(*paths)),
    "distill": lambda paths: "\n\n".join(distill_block(_json(path)) for path in paths),
    "linear": lambda paths: if_measured(
        "linear-emoji-wan.json", "python benchmarks/linear.py emoji-wan --frames 5 --plan ...", linear_block
    ),
    "assembly": lambda paths: if_measured("assembly-emoji-sd.json", "python benchmarks/assembly.py", assembly_block),
    "erw": lambda paths: if_measured("erw-emoji-pixart.json", "python benchmarks/erw.py", erw_block),
    "transfer": lambda paths: "\n\n".join(transfer_block(load(path)) for path in paths),
    "techniques": lambda paths: "\n\n".join(techniques_block(load(path)) for path in paths),
    "theory": lambda paths: theory_block(_json(*paths)),
    "zoo": lambda paths: zoo_block(),
    "ecad-macs": lambda paths: ecad_block(),
    "families": lambda paths: families_block(ask_families(), not_asked()),
    "family-groups": lambda paths: groups_block(ask_families()),
    "site-kinds": lambda paths: kinds_block(ask_families()),
    "parallel": lambda paths: parallel_block(_json(*paths)),
    "parallel-simulator": lambda paths: simulator_block(_json(*paths)),
    "parallel-plan": lambda paths: if_measured(PARALLEL_PLAN_FILE, PARALLEL_PLAN, parallel_plan_block),
    "attention-papers": lambda paths: attention_papers(),
    "attention-times": lambda paths: if_measured(
        "attention-cpu.json", "python benchmarks/attention.py", attention_times_block
    ),
    "attention-quality": lambda paths: if_measured(
        "attention-emoji-wan.json", "python benchmarks/attention_quality.py", attention_quality_block
    ),
    "attention-orders": lambda paths: if_measured(
        "attention-emoji-wan-orders.json",
        "python benchmarks/attention_quality.py --only PAROAttention --num-search 12",
        attention_quality_block,
    ),
    "attention-gpu": lambda paths: if_measured(
        "attention-gpu.json", "python benchmarks/attention_gpu.py", attention_gpu_block
    ),
    "passes": lambda paths: passes_block(own_passes()),
    **quant_tables(),
}
