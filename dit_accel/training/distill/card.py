"""The card of a student: how to run it, where it comes from, what it cost; from its facts alone."""

from collections.abc import Mapping
from typing import Any

CARD_FILE = "README.md"


def student_card(facts: Mapping[str, Any], name: str, *, rank: int) -> str:
    """Markdown.

    Args:
        facts: What ``student.json`` holds.
        name: Of the folder.
        rank: Of the adapter; 0: a full copy.
    """
    training = facts["training"]
    model, counts = training.get("model", facts["pipeline"]), [str(count) for count in facts["steps"]]
    steps = " or ".join([", ".join(counts[:-1]), counts[-1]] if len(counts) > 1 else counts)
    how = "with fresh noise between its steps" if facts["scheduler"]["stochastic_sampling"] else "with Euler's steps"
    parts = [
        f"# {model} in {steps} step{'' if counts == ['1'] else 's'}: a student by {facts['method']}",
        f"For {steps} step{'' if counts == ['1'] else 's'} {how}, at guidance {facts['guidance_scale']:g}.",
    ]
    if rank:
        parts += [
            "```python\n"
            "from dit_accel import AccelerationPlan, DistilledConfig, accelerate_pipeline\n\n"
            f'plan = AccelerationPlan(passes=(DistilledConfig.from_student("{name}"),))  # the path of this folder\n'
            f"image = accelerate_pipeline(pipe, plan)(prompt, num_inference_steps={counts[-1]}).images[0]\n"
            "```",
            f"A LoRA of rank {rank} in half precision; `load_lora_weights` loads it as well, and leaves the scheduler "
            f"to you. The times (sigmas) of its steps: {_times(facts['sigmas'])}.",
        ]
    else:
        parts.append("A full copy of the denoiser, in the folder `denoiser`.")
    parts.append(
        "Learned from the teacher's own runs; no image was used. "
        f"{training['steps']} training steps{_of(training, 'batch_size', ' of {} samples')}, "
        f"{training['seconds']} seconds{_of(training, 'machine', ' on {}')}"
        f"{_of(training, 'trajectories', '; {} runs of the teacher')}{_of(training, 'init', '; begun with {}')}"
        f"{_of(training, 'seed', '; seed {}')}. Licence and limits are the teacher's: see its card."
    )
    return "\n\n".join(parts) + "\n"


def _times(sigmas: Mapping[str, list[float]]) -> str:
    return "; ".join(f"in {count}: {', '.join(f'{sigma:.4g}' for sigma in each)}" for count, each in sigmas.items())


def _of(training: Mapping[str, Any], name: str, words: str) -> str:
    return words.format(training[name]) if training.get(name) is not None else ""
