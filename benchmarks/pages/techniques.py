"""Published techniques: what their papers claim, and what ``benchmarks/solvers.py`` measured of them, as Markdown."""

from dataclasses import dataclass
from typing import Any

from dit_accel.errors import ConfigError
from pages.measured import NOT_YET


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a paper says of its technique.

    Attributes:
        title: Name of the technique.
        paper: Authors and arXiv number.
        claim: Figure, model and setting, as the paper or its code states them.
        differs: Why ours need not agree, in a phrase.
    """

    title: str
    paper: str
    claim: str
    differs: str


CLAIMS = {
    "deepcache": Claim(
        title="DeepCache",
        paper="Ma et al., 2312.00858",
        claim="2.3x, CLIP score 0.05 lower; Stable Diffusion v1.5, 50 PLMS steps, GPU",
        differs="fewer steps here, so that a kept value serves over a longer part of the run",
    ),
    "faster_diffusion": Claim(
        title="Faster Diffusion",
        paper="Li et al., 2312.09608",
        claim="41 % of the time saved (1.7x), FID 21.75 to 21.08, 27 % of the arithmetic; Stable Diffusion v1.5, "
        "DDIM, 50 steps, A40. DPM-Solver, 20 steps: 44 % of the time, 21 % of the arithmetic. DiT-XL/2, 250 steps: "
        "34 % of the time",
        differs="one after the other the paper's decoders save 24 %, the rest is a GPU that one step leaves idle; "
        "prior noise is for FID, and moves the picture away from the plain one",
    ),
    "a_sdm": Claim(
        title="A-SDM, feature inheritance",
        paper="Zhu et al., 2406.00210",
        claim="40.0 % faster; Stable Diffusion. Levels and modes are named, their settings are not public",
        differs="which blocks inherit, and when, is our reading",
    ),
    "smoothcache": Claim(
        title="SmoothCache",
        paper="Liu et al., 2411.10510",
        claim="8 to 71 % faster, quality kept or better; DiT-XL, Open-Sora, Stable Audio Open, GPU",
        differs="its threshold is set by the share of calls that may be computed, in place of by hand",
    ),
    "cachequant": Claim(
        title="CacheQuant, without its quantisation",
        paper="Liu and Zhang, 2503.01323",
        claim="5.18x with 8-bit weights and activations, CLIP score 0.02 lower; Stable Diffusion, 50 PLMS steps, "
        "one step in five, GPU",
        differs="only its grouping of steps and its correction of kept values; no 8-bit arithmetic",
    ),
    "lemica": Claim(
        title="LeMiCa",
        paper="Gao et al., 2511.00090",
        claim="2.9x; Latte, video, GPU",
        differs="gaps of up to four steps, on two search prompts; leaf outputs are kept in place of the model's",
    ),
    "fora": Claim(
        title="FORA",
        paper="Selvaraju et al., 2407.01425",
        claim="2.0x; PixArt-alpha, 256 px, 20 steps, N = 3, A6000, as ECAD's authors measured it (2506.15682)",
        differs="time is not arithmetic: no step saves norms, modulation, text encoder and VAE",
    ),
}
HEADER = (
    "| technique | the paper's claim | ours: setting | speed-up | arithmetic saved | calls answered "
    "| PSNR (worst 5 %) | ST-LPIPS | why they differ |",
    "|---|---|---|---:|---:|---:|---:|---:|---|",
)


def techniques_block(data: Any) -> str:
    """A report of ``benchmarks/solvers.py``: a table a model, each with how it was measured.

    Raises:
        ConfigError: It is no such report, or has a technique of which no claim is known.
    """
    try:
        return "\n\n".join(_model(name, model) for name, model in data["models"].items())
    except (KeyError, TypeError) as error:
        raise ConfigError(f"not a report of benchmarks/solvers.py: {error} is missing") from error


def _model(name: str, model: dict[str, Any]) -> str:
    environment, cases = model["environment"], model["cases"]
    rows = [_row(name, case, model["cases"]) for name, case in cases.items()]
    timings = [case["timing"] for case in cases.values() if case.get("timing")]
    timed = (
        f"; times: {timings[0]['repeats']} interleaved runs of {timings[0]['images']} image(s), one thread"
        if timings
        else "; wall-clock: not measured yet"
    )
    how = (
        f"`{name}`, {model['steps']} steps, n = {model['num']} held-out prompts{timed}; {environment['cpu']}, torch "
        f"{environment['packages']['torch']}, diffusers {environment['packages']['diffusers']}, "
        f"{model['created_utc'][:10]}."
    )
    return "\n".join([f"**{name}**", "", *HEADER, *rows, "", how])


def _row(name: str, case: dict[str, Any], cases: dict[str, Any]) -> str:
    technique = case["technique"]
    claim = CLAIMS[technique]
    first = next(each for each, other in cases.items() if other["technique"] == technique) == name
    distance = case["st_lpips"]
    cells = [
        f"{claim.title} ({claim.paper})" if first else claim.title,
        claim.claim if first else "",
        name.partition(": ")[2],
        NOT_YET if case["speedup"] is None else f"{case['speedup']:.2f}x",
        f"{case['macs_saved_frac']:.0%}",
        f"{case['answered']} of {case['calls']}",
        f"{case['psnr_db']:.1f} ({case['worst_db']:.1f}) dB",
        "" if distance is None else f"{distance:.3f}",
        claim.differs if first else "",
    ]
    return f"| {' | '.join(cells)} |"
