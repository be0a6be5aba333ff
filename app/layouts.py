"""What only a model can say of a plan: its sites, and how dense its attention is. Imports torch, loads no weights."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_accel.app.heat_rows import Known, tensor_shapes
from dit_accel.app.plans import read_plan_file
from dit_accel.embedded import embedded_path, list_embedded
from dit_accel.plan.plan import TENSOR_FILE, AccelerationPlan

if TYPE_CHECKING:
    from dit_accel.families.targets import Target
    from dit_accel.plan.config import PassConfig

CONFIG_FILE, MODEL_INDEX = "config.json", "model_index.json"


def passes_of(
    folder: Path | None, preset: str | None, targets: Sequence["Target"], num_steps: int
) -> tuple[list[dict[str, Any]], Known]:
    """The passes of a plan in a folder, or of a preset by rule, and what these denoisers add to them.

    Args:
        folder: Of the plan; ``None``: the preset counts.
        preset: Its name.
        targets: Denoisers of the model; empty: it could not be read.
        num_steps: Of the run.

    Raises:
        ConfigError: The plan cannot be read, or there is no such preset.
    """
    from dit_accel.session.presets import PRESETS

    if folder is not None:
        passes: list[dict[str, Any]] = list(read_plan_file(folder).passes)
        configs: Sequence[PassConfig] = AccelerationPlan.from_pretrained(folder).passes
        shapes = tensor_shapes(folder / TENSOR_FILE)
    elif preset is not None and targets:
        configs = PRESETS.get(preset).make(targets)
        passes, shapes = [config.to_dict() for config in configs], {}
    else:
        return [], Known(num_steps=num_steps)
    first = targets[0] if targets else None
    graph = None if first is None else first.layout.graph
    attention = {} if first is None else _attention(configs, first, num_steps)
    return passes, Known(num_steps=num_steps, shapes=shapes, graph=graph, attention=attention)


def targets_of(model: str) -> tuple["Target", ...]:
    """The denoisers of an embedded pipeline or of a folder, built from their configs without weights.

    Returns:
        Empty where there is nothing on this machine to build them from.
    """
    folder = embedded_path(model) if model in list_embedded() else Path(model)
    return _weightless(folder) if (folder / MODEL_INDEX).is_file() else ()


@cache
def _weightless(folder: Path) -> tuple["Target", ...]:
    import diffusers
    import torch
    from torch import nn

    from dit_accel.families.targets import find_targets

    class Bare:
        """As much of a pipeline as is looked at."""

        components: Mapping[str, nn.Module]

    found = {}
    for name, where in json.loads((folder / MODEL_INDEX).read_text(encoding="utf-8")).items():
        path = folder / name / CONFIG_FILE
        kind = getattr(diffusers, str(where[1]), None) if isinstance(where, list) and len(where) == 2 else None
        if path.is_file() and isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin):
            with torch.device("meta"):
                found[name] = _built(kind, path.parent)
    bare = Bare()
    bare.components = found
    return find_targets(bare)


def _built(kind: Any, folder: Path) -> Any:
    return kind.from_config(kind.load_config(folder))


def _attention(configs: Sequence["PassConfig"], target: "Target", num_steps: int) -> dict[str, tuple[float, ...]]:
    """For each attention site the share of its scores that each step computes."""
    from dit_accel.passes.attention.paro_config import PAROAttentionConfig
    from dit_accel.passes.attention.routing import routable
    from dit_accel.passes.attention.sparse_d import SparseDConfig

    found = next((each for each in configs if isinstance(each, PAROAttentionConfig | SparseDConfig)), None)
    if found is None:
        return {}
    sites = [site.info.id for site, _ in routable(target)]
    density = found.densities().tolist() if isinstance(found, PAROAttentionConfig) else []

    def share(step: int, place: int) -> float:
        if step < found.dense_steps(num_steps) or place < found.dense_layers:
            return 1.0
        if isinstance(found, SparseDConfig):
            return float(found.density)
        layer = found.layers.index(sites[place]) if sites[place] in found.layers else None
        return 1.0 if layer is None else float(density[found.part_of(step, num_steps)][layer])

    return {site: tuple(share(step, place) for step in range(num_steps)) for place, site in enumerate(sites)}
