"""A certificate with made-up numbers."""

import dataclasses
from typing import Any

from dit_accel.plan.certificate import Certificate, one_or_all
from dit_accel.plan.claims import FewerSteps, Measured, Prompts, SpeedClaim
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.fingerprint import Fingerprint
from dit_accel.plan.plan import AccelerationPlan


def sample_certificate(**fields: Any) -> Certificate:
    """Sealed, of no plan in particular."""
    psnr = Measured(mean=36.1, ci95=(35.6, 36.7), worst5=27.9)
    values: dict[str, Any] = {
        "created_utc": "2026-01-01T00:00:00+00:00",
        "dit_accel": "0.1.0",
        "model": "tiny",
        "plan_sha256": "0",
        "report_sha256": "0",
        "fingerprint": Fingerprint(model_class="X", sites="", config=""),
        "conditions": Conditions(guidance_scale=4.5, scheduler="DPMSolverMultistepScheduler"),
        "num_inference_steps": 20,
        "height": 64,
        "width": 64,
        "prompts": Prompts(source="certify", kind="image", version=1, sha256="0", n=200, first_seed=0),
        "fidelity": {"psnr_db": psnr, "ssim": Measured(mean=0.99, ci95=(0.985, 0.993), worst5=0.9)},
        "planned_frac": 0.5,
        "actual_frac": 0.5,
        "speed": SpeedClaim(
            device="cpu",
            device_name="a CPU",
            threads=1,
            dtype="float32",
            batch_size=4,
            rounds=10,
            denoiser_ratio=2.1,
            denoiser_ci95=(2.05, 2.2),
            run_ratio=1.8,
            run_ci95=(1.7, 1.9),
        ),
        "rival": FewerSteps(num_inference_steps=10, run_ratio=1.9, fidelity={"psnr_db": psnr}),
    }
    return Certificate(**{**values, **fields}).sealed()


def certified(plan: AccelerationPlan, **fields: Any) -> AccelerationPlan:
    """The plan with a certificate of its own."""
    models = plan.fingerprints
    own = sample_certificate(plan_sha256=plan.content_sha256(), fingerprint=one_or_all(models), **fields)
    return dataclasses.replace(plan, certificate=own)
