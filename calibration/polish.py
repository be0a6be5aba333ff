"""Polishes fitted weights by the gradient of the last latents' error, through the sampler and the denoiser.

The fit takes one evaluation after another and brings each back onto the recorded run as far as it can; what is left it
hands on. All weights together can do better: an error that a later answer will undo need not be avoided (BNS, Shaul et
al., arXiv 2403.01329; GAS, arXiv 2510.17699). Departures: the start is a fit on the accelerated run itself; steps are
taken in coordinates in which equal ones change the answer equally, for outputs of neighbouring evaluations are nearly
the same regressor; and prompts that the gradient never sees say when to stop.

Memory: the activations of all computed evaluations of :data:`CHUNK` prompts, as in training.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from dit_accel.calibration.recording import Draw, Evaluation, Recording, listening
from dit_accel.errors import ConfigError
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.passes.trajectory.config import LATENTS, NOISE, rows_of
from dit_accel.passes.trajectory.history import add_mixed

CHUNK = 4  # prompts whose gradient is taken at once
HELD_OUT_FRAC = 0.25  # of the prompts, that say when to stop
STEP_FRAC = 2e-3  # of an answer's size, by which one coordinate moves it at first
SMALLEST_FRAC = 1e-3  # directions of regressors smaller than this, relative to the answer, are not amplified


def polished(
    pipe: Any, draw: Draw, reference: Recording, config: TrajectoryConfig, first: int, last: int, rounds: int
) -> TrajectoryConfig:
    """The plan with polished weights: of all rounds those that served the held-out prompts best, the fit's included.

    Args:
        pipe: The pipeline; its denoiser must let gradients through.
        draw: Draws prompts.
        reference: Of exactly these prompts.
        config: A fitted plan.
        first: Of the prompts.
        last: One past the last prompt.
        rounds: Steps of gradient descent (Adam, its step falling like a cosine), each over all prompts but those held
            out: three to four times the cost of a fit.

    Raises:
        ConfigError: There are fewer than two prompts, no weights, or some for each guidance branch.
    """
    if config.weights is None or config.unconditional is not None or last - first < 2:
        raise ConfigError(
            "polishing takes a fitted plan with one set of weights for all guidance branches, and at least two "
            "prompts, one of them held out"
        )
    held = max(1, round(HELD_OUT_FRAC * (last - first)))
    trained = last - held
    rows = Rows(config)
    with _frozen(pipe):
        rows.measure(_Runner(pipe, draw, reference, rows, first), first, min(trained, first + CHUNK))
        runner = _Runner(pipe, draw, reference, rows, first)
        optimizer = torch.optim.Adam(list(rows.moves.values()), lr=STEP_FRAC, betas=(0.8, 0.95))
        best, kept = runner.loss(trained, last), rows.table()
        for number in range(rounds):
            for group in optimizer.param_groups:
                group["lr"] = STEP_FRAC * 0.5 * (1 + math.cos(math.pi * number / rounds))
            optimizer.zero_grad()
            for start in range(first, trained, CHUNK):
                runner.descend(start, min(trained, start + CHUNK), trained - first)
            optimizer.step()
            found = runner.loss(trained, last)
            if found < best:
                best, kept = found, rows.table()
    return replace(config, weights=kept)


class Rows:
    """The weights of answered evaluations, and the coordinates in which they are moved.

    Attributes:
        moves: By evaluation, float64 [R]; nought where the fit left them.
    """

    def __init__(self, config: TrajectoryConfig) -> None:
        assert config.weights is not None and config.computed is not None
        self.config = config
        self.computed = frozenset(step for step, computed in enumerate(config.computed) if computed)
        answered = {step: row for step, row in rows_of(config.weights).items() if step not in self.computed}
        self.names = {step: list(row) for step, row in answered.items()}
        self.start = {step: torch.tensor(list(row.values()), dtype=torch.float64) for step, row in answered.items()}
        self.moves = {step: torch.zeros_like(row, requires_grad=True) for step, row in self.start.items()}
        self.spread = {step: torch.eye(len(row), dtype=torch.float64) for step, row in self.start.items()}

    def measure(self, runner: "_Runner", first: int, last: int) -> None:
        """Learn from a run how the regressors of each answer hang together."""
        seen: dict[int, torch.Tensor] = {}
        runner.loss(first, last, seen)
        for step, gram in seen.items():
            row = self.start[step]
            gram = gram / (row @ gram @ row)
            sizes, axes = torch.linalg.eigh(gram)
            self.spread[step] = axes / sizes.clamp_min(SMALLEST_FRAC**2).sqrt()

    def weights(self, step: int) -> torch.Tensor:
        """Of an answered evaluation, float64 [R], in the order of ``names``."""
        return self.start[step] + self.spread[step] @ self.moves[step]

    def table(self) -> torch.Tensor:
        """As plans keep them."""
        assert self.config.weights is not None
        table = self.config.weights.clone()
        for step, names in self.names.items():
            table[step, names] = self.weights(step).detach()
        return table


class _Runner:
    """Runs the accelerated pipeline with the weights as they are now."""

    def __init__(self, pipe: Any, draw: Draw, reference: Recording, rows: Rows, first: int) -> None:
        self.pipe, self.draw, self.reference, self.rows, self.first = pipe, draw, reference, rows, first

    def loss(self, first: int, last: int, seen: dict[int, torch.Tensor] | None = None) -> float:
        """Mean over prompts of the logarithm of the last latents' relative squared error."""
        return float(self._run(first, last, with_gradient=False, seen=seen).mean())

    def descend(self, first: int, last: int, count: int) -> None:
        """Add the gradient of some of ``count`` prompts."""
        (self._run(first, last, with_gradient=True).sum() / count).backward()  # type: ignore[no-untyped-call]

    def _run(
        self, first: int, last: int, *, with_gradient: bool, seen: dict[int, torch.Tensor] | None = None
    ) -> torch.Tensor:
        sampler = Sampler(self.rows, with_gradient, seen)
        with listening(self.pipe, sampler):
            self.draw(first, last)
        wanted = self.reference.latents[-1][first - self.first : last - self.first].flatten(1).double()
        with torch.set_grad_enabled(with_gradient):
            off = (sampler.latents.flatten(1).double() - wanted).square().sum(1) / wanted.square().sum(1)
            return off.clamp_min(1e-20).log()


@dataclass(slots=True)
class Sampler:
    """Answers with given weights, which gradients can reach.

    Pipelines switch gradients off at their door, and back when they leave; in between, from the first scheduler step
    to the last one, they are on.

    Attributes:
        rows: The weights.
        with_gradient: Whether gradients are switched on.
        seen: Takes the Gram matrix of each answer's regressors.
        latents: After the last step that was taken.
    """

    rows: Rows
    with_gradient: bool = False
    seen: dict[int, torch.Tensor] | None = None
    latents: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    _outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    _step: int = 0

    def wants(self, step: int) -> bool:
        """Whether the step is computed."""
        return step in self.rows.computed

    def output(self, evaluation: Evaluation) -> torch.Tensor:
        """The denoiser's output, or the answer."""
        step = self._step = evaluation.step
        if step == 0:
            assert evaluation.given is not None or not any(LATENTS in names for names in self.rows.names.values())
            self._outputs[NOISE] = evaluation.latents * (evaluation.given or 0.0)
            torch.set_grad_enabled(self.with_gradient)
        if step not in self.rows.names:
            self._outputs[step] = evaluation.output
            return evaluation.output
        self._outputs[LATENTS] = evaluation.latents * (evaluation.given or 0.0)
        columns = torch.stack([self._outputs[name].float() for name in self.rows.names[step]])
        if self.seen is not None:
            flat = columns.flatten(1).double().cpu()
            self.seen[step] = flat @ flat.T
        weights = self.rows.weights(step).to(columns)
        answer: torch.Tensor = torch.tensordot(weights, columns, 1)
        filters = self.rows.config.filters
        if filters is not None:
            last = max(node for node in self.rows.computed if node < step)
            add_mixed(answer, self._outputs[last], filters[step])
        return answer.to(evaluation.output.dtype)

    def end(self, latents: torch.Tensor) -> None:
        """Note the latents."""
        self.latents = latents
        if self._step == len(self.rows.config.computed or ()) - 1:
            torch.set_grad_enabled(False)


@contextmanager
def _frozen(pipe: Any) -> Iterator[None]:
    """No gradients for the pipeline's own parameters."""
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    learning = [each for module in modules for each in module.parameters() if each.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
