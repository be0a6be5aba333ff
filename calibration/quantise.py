"""Finds a quantisation plan for a pipeline: record, fit every layer, see how errors add up, give bits, judge.

    plan = quantise(pipe, "outputs/quantize/emoji-pixart", model="emoji-pixart", bits="w4a8", max_lpips=0.05)

With neither ``memory`` nor ``max_lpips`` every layer inside of blocks gets ``bits``. With ``memory`` the layers share
a budget of bytes, some of them at 8 bits or in full. With ``max_lpips`` the smallest budget that keeps the pictures so
close is searched by bisection, each budget judged by drawing. All of it is on search prompts: certify the plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from dit_accel.api import is_accelerated
from dit_accel.calibration.quant_choose import choose
from dit_accel.calibration.quant_fit import LayerFit
from dit_accel.calibration.quant_gram import Gram, Place
from dit_accel.calibration.quant_job import QuantJob
from dit_accel.calibration.quant_search import How, OnProgress, Search
from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.fidelity import require_metrics
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.families.targets import find_targets
from dit_accel.passes.quantize.config import QuantizeConfig
from dit_accel.passes.quantize.ways import INTEGERS
from dit_accel.pipelines.generation import GenerationSettings
from dit_accel.plan.fingerprint import fingerprint
from dit_accel.plan.plan import NOT_CERTIFIED, AccelerationPlan

NOTE = f"calibrated on search prompts, {NOT_CERTIFIED}: `dit-accel certify` measures it on others"


@dataclass(slots=True, kw_only=True)
class Quantisation:
    """What a search has found.

    Attributes:
        plan: The plan, its weights in few bits with it.
        memory: Bytes of the denoisers under it by those before.
        scores: What it was judged by, means over the prompts: ``psnr_db``, ``st_lpips``, ...
        fits: Every layer in every width that was fitted.
        gram: How errors add up; ``None`` where nobody needed it.
        judged: Memory and scores of every choice that was drawn.
    """

    plan: AccelerationPlan
    memory: float
    scores: dict[str, float]
    fits: dict[Place, LayerFit]
    gram: Gram | None = None
    judged: list[tuple[float, dict[str, float]]] = field(default_factory=list)


def quantise(
    pipe: Any,
    folder: str | Path,
    *,
    model: str,
    bits: str = "w4a8",
    convs: str = "w8a8",
    modulation: str = "auto",
    memory: float | None = None,
    max_lpips: float | None = None,
    latency: float | None = None,
    how: How = "gram",
    settings: GenerationSettings | None = None,
    prompts: Sequence[str] | None = None,
    num_prompts: int | None = None,
    exact_first: int = 0,
    exact_last: int = 0,
    on_progress: OnProgress | None = None,
) -> Quantisation:
    """Find a quantisation plan; stopped and called again with the same arguments it goes on where it was.

    Args:
        pipe: A text-to-image or text-to-video pipeline that is not accelerated; it is left as it was.
        folder: For what is found, and for the plan.
        model: What the pipeline was loaded from.
        bits: The lowest width that a layer inside of a block gets.
        convs: Scheme of the convolutions inside of blocks.
        modulation: Scheme of the layers that see the timestep alone; ``"auto"``: weights of as many bits.
        memory: Bytes of the denoisers' weights that remain, as a share of what they are as loaded; not with exact
            steps, for which both are in memory.
        max_lpips: Largest mean perceptual distance to the plain run (LPIPS, else ST-LPIPS) on the judged prompts.
        latency: Seconds of the layers inside of blocks, as a share of what they take in full on this machine.
        how: See :data:`~dit_accel.calibration.quant_search.How`.
        settings: Of the run; ``None``: the pipeline's own.
        prompts: Prompts of your own, that nothing is certified on; ``None``: the list ``search`` that ships.
        num_prompts: So many are recorded, and up to eight others judged.
        exact_first: Steps at the start of a run with the weights as they were.
        exact_last: Steps at its end.
        on_progress: See :data:`~dit_accel.calibration.quant_search.OnProgress`.

    Raises:
        ConfigError: A limit that nothing keeps, with what there is; or a folder that holds something else.
        UnsupportedModelError: There is no denoiser with layers to quantise.
        MissingDependencyError: What judging or allocating needs is not installed.
    """
    require_metrics()
    if is_accelerated(pipe):
        raise ConfigError("the pipeline is accelerated already; quantise a plain one")
    if how not in get_args(How):
        raise ConfigError(f"'how' must be one of {', '.join(get_args(How))}, got {how!r}")
    if memory is not None and not 0 < memory <= 1:
        raise ConfigError(f"'memory' is the share of the weights' bytes that remains, in (0, 1]; got {memory!r}")
    if memory is not None and exact_first + exact_last:
        raise ConfigError("exact steps keep the weights as they were in memory, so that 'memory' cannot be kept")
    if latency is not None and (not latency > 0 or how == "decoupled"):
        raise ConfigError(f"'latency' is a share above 0, and not for 'decoupled'; got {latency!r}")
    if max_lpips is not None and not available_perceptual():
        raise ConfigError("'max_lpips' takes a perceptual distance, and none can be measured here: see doctor")
    search = Search(
        pipe=pipe,
        targets=find_targets(pipe),
        settings=settings or GenerationSettings(),
        base=QuantizeConfig(
            bits=bits,
            convs=convs,
            modulation=modulation,
            backend=INTEGERS,
            exact_first=exact_first,
            exact_last=exact_last,
        ),
        how=how,
        latency=latency,
        tell=on_progress or (lambda what, done, total: None),
    )
    search.draw_from(prompts, num_prompts)
    search.job = QuantJob(Path(folder) / "progress", search.identity(model))
    mixed = any(limit is not None for limit in (memory, max_lpips, latency))
    search.fit(mixed)
    if mixed:
        search.measure_gram()
        search.measure_times()
        chosen = choose(search, memory, max_lpips)
    else:
        chosen = dict.fromkeys(search.layers, bits)
    config = search.config(chosen)
    scores = search.judge(chosen)
    plan = AccelerationPlan(
        name=bits,
        passes=(config,),
        fingerprints=tuple(fingerprint(target) for target in search.targets),
        notes=(NOTE,),
    )
    plan.save_pretrained(folder)
    return Quantisation(
        plan=plan,
        memory=search.memory(chosen),
        scores=scores,
        fits=search.fits,
        gram=search.gram,
        judged=search.seen,
    )
