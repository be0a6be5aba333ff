"""A report with made-up numbers."""

from dit_accel.evaluation.reports.environment import Environment
from dit_accel.evaluation.reports.report import (
    Effects,
    Fidelity,
    Metric,
    Report,
    ReportSample,
    Settings,
    Speedup,
    Times,
    Variant,
)
from dit_accel.plan.claims import EffectClaim

CLAIM = EffectClaim(name="static_cache", what="scheduled module calls saved", planned_frac=0.5, actual_frac=0.5)


def sample_report() -> Report:
    """Plain, one plan and its rival."""
    plain, fast, few = [1.0, 1.2, 1.1], [0.5, 0.6, 0.5], [0.5, 0.5, 0.6]
    fidelity = Fidelity(psnr_db=Metric.of((30.0, 20.0)), ssim=Metric.of((0.9, 0.8)))
    return Report(
        created_utc="2026-01-01T00:00:00+00:00",
        command=("dit-accel", "demo"),
        environment=Environment(
            dit_accel="0.1.0",
            python="3.11.7",
            platform="Linux",
            cpu="a CPU",
            cpu_cores=2,
            torch_threads=1,
            packages={},
        ),
        settings=Settings(
            model="tiny",
            pipeline_class="PixArtAlphaPipeline",
            denoiser_class="PixArtTransformer2DModel",
            scheduler="DPMSolverMultistepScheduler",
            num_inference_steps=20,
            guidance_scale=None,
            height=64,
            width=64,
            batch_size=2,
            device="cpu",
            dtype="float32",
            repeats=3,
            warmup=1,
        ),
        samples=(ReportSample(prompt="a red apple", seed=0), ReportSample(prompt="an owl", seed=1)),
        variants=(
            Variant(name="plain", kind="plain", num_inference_steps=20, times=Times.of(plain)),
            Variant(
                name="fast",
                kind="plan",
                num_inference_steps=20,
                plan={"name": "fast"},
                certified=False,
                times=Times.of(fast),
                speedup=Speedup.of(plain, fast),
                fidelity=fidelity,
                effects=Effects(passes=(CLAIM,), kept_mib=1.5),
            ),
            Variant(
                name="9 steps",
                kind="fewer_steps",
                rival_of="fast",
                num_inference_steps=9,
                times=Times.of(few),
                speedup=Speedup.of(plain, few),
                fidelity=fidelity,
            ),
        ),
        notes=("made up",),
    )
