"""The stages of a search for a quantisation plan: record and fit, see how errors add up, choose, judge."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from dit_accel.api import accelerated
from dit_accel.calibration.quant_allocate import Budget, Option, allocate
from dit_accel.calibration.quant_bytes import bytes_of_exact, bytes_of_fit, bytes_saved_apart
from dit_accel.calibration.quant_decoupled import content_scores, decoupled
from dit_accel.calibration.quant_fit import LayerFit, fit_layer
from dit_accel.calibration.quant_gram import CALLS, Gram, Place, gram_matrix, keep_calls
from dit_accel.calibration.quant_job import QuantJob, key_of
from dit_accel.calibration.quant_latency import layer_seconds
from dit_accel.calibration.quant_record import in_parts, record_layers
from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.fidelity import differences
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.families.targets import Target
from dit_accel.passes.quantize.choice import chosen_layers, full_name
from dit_accel.passes.quantize.config import QuantizeConfig, scheme_of
from dit_accel.passes.quantize.replaced import bytes_of
from dit_accel.passes.quantize.roles import Found, is_plain, layers_of
from dit_accel.passes.quantize.rows import rows_of
from dit_accel.passes.quantize.scheme import PLAIN, QuantScheme
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video
from dit_accel.plan.fingerprint import digest, scheduler_digest
from dit_accel.plan.weights import sample_weights
from dit_accel.prompts import load_prompts

# That layers are recorded on; with fewer, what reads text alone is fitted to those few.
NUM_IMAGES, NUM_VIDEOS = 64, 12
CHECKED_FRAC = 0.25  # of these, that rounded layers are judged by and not fitted to
JUDGED = 8  # others, that choices are judged on
SEED = 60_000  # of the first prompt; certificates count from 0, trajectories from 50 000
KEPT_EVERY = 16  # layers that are fitted, until all of them are written
CONTENT_PROMPTS = 2  # that single layers are drawn with

How = Literal["gram", "diagonal", "decoupled"]
"""By what layers get bits: errors of the output and how they add up, each by itself, or each by what it is for."""

OnProgress = Callable[[str, int, int], None]
"""Told what is done (``"record"``, ``"fit"``, ``"gram"``, ``"content"``, ``"judge"``), and how many of how many."""


@dataclass(slots=True, kw_only=True)
class Search:
    """The work of :func:`~dit_accel.calibration.quantise.quantise`, stage by stage; each stage is kept on disk."""

    pipe: Any
    targets: tuple[Target, ...]
    settings: GenerationSettings
    base: QuantizeConfig
    how: How
    latency: float | None = None
    tell: OnProgress
    job: QuantJob = field(init=False)
    recorded: list[tuple[str, int]] = field(default_factory=list)
    others: list[tuple[str, int]] = field(default_factory=list)
    layers: dict[str, Found] = field(default_factory=dict)
    fits: dict[Place, LayerFit] = field(default_factory=dict)
    gram: Gram | None = None
    times: dict[Place, float] = field(default_factory=dict)
    plain: torch.Tensor | None = None
    seen: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        known: set[int] = set()
        for target in self.targets:
            for found in layers_of(target):
                if found.role != "block" or not isinstance(found.layer, nn.Linear) or id(found.layer) in known:
                    continue
                if not is_plain(found.layer):
                    raise ConfigError(f"'{found.path}' is offloaded or quantised already; load the pipeline plainly")
                known.add(id(found.layer))
                self.layers[full_name(target.name, found.path)] = found
        if not self.layers:
            raise ConfigError("none of its linear layers lies inside of a block, so none is quantised")

    def draw_from(self, prompts: Sequence[str] | None, count: int | None) -> None:
        """Choose the prompts: those that layers are recorded on, and others that choices are judged on."""
        video = makes_video(self.pipe)
        count = count or (NUM_VIDEOS if video else NUM_IMAGES)
        others = min(JUDGED, count)
        listed = list(prompts or load_prompts("search", "video" if video else "image").prompts)
        if len(listed) < count + others:
            raise ConfigError(
                f"{len(listed)} prompts are too few: {count} are recorded, and {others} others are judged"
            )
        samples = [(prompt, SEED + number) for number, prompt in enumerate(listed[: count + others])]
        self.recorded, self.others = samples[:count], samples[count:]

    def identity(self, model: str) -> dict[str, Any]:
        weights = [sample_weights(target.denoiser) for target in self.targets]
        return {
            "model": model,
            "weights": [None if sample is None else digest(asdict(sample)) for sample in weights],
            "scheduler": scheduler_digest(self.pipe.scheduler),
            "settings": asdict(self.settings),
            "prompts and seeds": digest([*self.recorded, *self.others]),
            "bits": self.base.bits,
            "convs": self.base.convs,
            "modulation": self.base.modulation_scheme,
            "exact steps": [self.base.exact_first, self.base.exact_last],
        }

    def draw(self, samples: Sequence[tuple[str, int]]) -> torch.Tensor:
        size = 1 if makes_video(self.pipe) else 4
        prompts, seeds = [prompt for prompt, _ in samples], [seed for _, seed in samples]
        return generate(self.pipe, prompts, seeds, self.settings, batch_size=size)

    def fit(self, mixed: bool) -> None:
        """Round every layer, in each width that it may get."""
        self.fits = self.job.fits()
        low = scheme_of(self.base.bits)
        assert low is not None
        widths = [low, QuantScheme()] if mixed and low.w_bits < 8 else [low]
        missing = [name for name in self.layers if any((name, str(width)) not in self.fits for width in widths)]
        done = len(self.layers) - len(missing)
        for names in in_parts({name: self.layers[name].columns for name in missing}):
            self.tell("record", done, len(self.layers))
            most = max(1, round(len(self.recorded) * (1 - CHECKED_FRAC)))
            shown, kept_back = self.recorded[:most], self.recorded[most:] or self.recorded
            records = record_layers(
                self.pipe,
                lambda some=shown: self.draw(some),  # type: ignore[misc]
                lambda some=kept_back: self.draw(some),  # type: ignore[misc]
                names=names,
            )
            for name in names:
                layer = self.layers[name].layer
                assert isinstance(layer, nn.Linear)
                record = records.pop(name, None)
                if record is None:
                    raise ConfigError(f"'{name}' was never called while recording")
                for width in widths:
                    self.fits[name, str(width)] = fit_layer(layer, record, width)
                done += 1
                if done % KEPT_EVERY == 0 or name == names[-1]:
                    self.job.keep_fits(self.fits)
                self.tell("fit", done, len(self.layers))

    def measure_gram(self) -> None:
        self.gram = self.job.gram()
        if self.gram is not None:
            return
        calls = keep_calls(self.pipe, lambda: self.draw(self.recorded[:1]), count=CALLS)
        self.gram = gram_matrix(
            {target.name: target.denoiser for target in self.targets},
            calls,
            self.layers,
            self.fits,
            known=self.job.errors(),
            keep=self.job.keep_errors,
            on_progress=lambda done, total: self.tell("gram", done, total),
        )
        self.job.keep_gram(self.gram)

    def measure_times(self) -> None:
        """Time every layer in every width, if time has a budget; anew on every machine."""
        if self.latency is None:
            return
        rows: dict[str, int] = {}
        for target in self.targets:
            known = rows_of(target, self.pipe)
            rows |= {full_name(target.name, path): count for path, count in known.items()}
        self.times = layer_seconds(self.layers, self.fits, rows)

    def options(self) -> list[Option]:
        """Every layer in every width."""
        found = []
        for name, layer in self.layers.items():
            assert isinstance(layer.layer, nn.Linear)
            found += [
                Option(
                    layer=name,
                    scheme=width,
                    nbytes=bytes_of_fit(fit, layer.layer),
                    seconds=self.times.get((name, width), 0.0),
                )
                for (own, width), fit in self.fits.items()
                if own == name
            ]
            plain = self.times.get((name, PLAIN), 0.0)
            found.append(Option(layer=name, scheme=PLAIN, nbytes=layer.layer.weight.nbytes, seconds=plain))
        return found

    @property
    def bytes_before(self) -> int:
        return sum(bytes_of(target.denoiser) for target in self.targets)

    @property
    def bytes_apart(self) -> float:
        """Of what no budget is about: embedders, norms, biases; modulation and convolutions in their own widths."""
        inside = sum(found.layer.weight.nbytes for found in self.layers.values())
        return self.bytes_before - inside - bytes_saved_apart(self.targets, self.layers, self.base)

    def share(self, chosen: dict[str, str]) -> float:
        """Share of the denoisers' bytes that a choice takes."""
        taken = {(option.layer, option.scheme): option.nbytes for option in self.options()}
        return (self.bytes_apart + sum(taken[place] for place in chosen.items())) / self.bytes_before

    def memory(self, chosen: dict[str, str]) -> float:
        """:meth:`share`, with the weights as they were where exact steps compute with them."""
        return self.share(chosen) + bytes_of_exact(self.targets, self.named(chosen)) / self.bytes_before

    def within(self, memory: float) -> dict[str, str]:
        """The choice for a budget."""
        assert self.gram is not None
        if self.how == "decoupled":
            return decoupled(self, memory, self.content())
        whole = sum(self.times.get((name, PLAIN), 0.0) for name in self.layers)
        most = None if self.latency is None else self.latency * whole
        budget = Budget(nbytes=max(1.0, memory * self.bytes_before - self.bytes_apart), seconds=most)
        return allocate(self.options(), self.gram, budget, interactions=self.how == "gram")

    def content(self) -> dict[Place, float]:
        """How far pictures are from the plain ones with single layers in few bits."""
        return content_scores(
            lambda: self.draw(self.recorded[:CONTENT_PROMPTS]),
            self.layers,
            self.fits,
            known=self.job.content(),
            keep=self.job.keep_content,
            on_progress=lambda done, total: self.tell("content", done, total),
        )

    def named(self, chosen: dict[str, str]) -> QuantizeConfig:
        """The pass of a choice, without what is stored of its layers."""
        fits = {name: self.fits.get((name, width)) for name, width in chosen.items()}
        layers = {name: PLAIN if fit is None else str(fit.scheme) for name, fit in fits.items()}
        return replace(self.base, modulation=self.base.modulation_scheme, layers=layers)

    def config(self, chosen: dict[str, str]) -> QuantizeConfig:
        """The pass of a choice, with its weights."""
        stored: dict[str, torch.Tensor] = {}
        for name, width in chosen.items():
            fit = self.fits.get((name, width))
            stored |= {} if fit is None else fit.needed(name, self.layers[name].layer.weight)
        return replace(self.named(chosen), stored=stored)

    def distance(self, chosen: dict[str, str]) -> float:
        scores = self.judge(chosen)
        return next(scores[name] for name in available_perceptual() if name in scores)

    def judge(self, chosen: dict[str, str]) -> dict[str, float]:
        """Draw with a choice, and compare with the plain run."""
        judged = self.job.judged()
        key = key_of(chosen)
        if key not in judged:
            if self.plain is None:
                self.plain = self.draw(self.others)
            if not any(chosen_layers(target, self.named(chosen)) for target in self.targets):
                drawn = self.plain
            else:
                with accelerated(self.pipe, [self.config(chosen)]):
                    drawn = self.draw(self.others)
            found = differences(drawn, self.plain, perceptual=available_perceptual())
            judged[key] = {name: sum(values) / len(values) for name, values in found.items()}
            self.job.keep_judged(judged)
        self.seen.append((self.memory(chosen), judged[key]))
        self.tell("judge", len(self.seen), len(self.seen))
        return judged[key]
