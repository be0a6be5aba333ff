"""One denoiser that several ranks compute together: who computes what in a run, and each call of it."""

from typing import Any

import torch
from torch import nn

from dit_accel.errors import ConfigError, PlanMismatchError, UnsupportedModelError
from dit_accel.families.base import submodule
from dit_accel.families.tokens import TokenGrid
from dit_accel.passes.attention.routing import SCORES, routable, route
from dit_accel.passes.patch_parallel.attention import PatchRoute
from dit_accel.passes.patch_parallel.comm import Comm, checksum
from dit_accel.passes.patch_parallel.config import NAME, PatchParallelConfig
from dit_accel.passes.patch_parallel.groups import Groups, job
from dit_accel.passes.patch_parallel.guidance import GuidanceSplit, why_not
from dit_accel.passes.patch_parallel.linear import OwnHeight, linear_attentions, sum_states
from dit_accel.passes.patch_parallel.mailbox import Mailbox
from dit_accel.passes.patch_parallel.rows import Share, TokenRows
from dit_accel.passes.patch_parallel.splits import SPLITS
from dit_accel.passes.patch_parallel.stage import CutOutput, CutPerToken, GatherOutput, GatherRows, Place, Stage
from dit_accel.passes.patch_parallel.unet import HaloConv, SharedNorm, rows_of_a_unit
from dit_accel.runtime.call import Call, Inner, Run
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.patch import Patch
from dit_accel.runtime.sockets import DECIDES
from dit_accel.runtime.trees import Tree, leaves

_COMPARED = 2  # evaluations of a run in which ranks compare latents: the noise, and what the scheduler makes of it


class PatchParallel:
    """Wraps every call of one denoiser.

    Args:
        runtime: Of the denoiser.
        config: Of the pass.

    Attributes:
        groups: The ranks, and the books of what they send.
        share: This rank's rows in the last run; ``None``: the picture was not cut.
        guided: Whether the last run's guidance branches were on two halves of the ranks.
    """

    def __init__(self, runtime: DenoiserRuntime, config: PatchParallelConfig) -> None:
        self.runtime = runtime
        self.config = config
        target = runtime.target
        self.split = SPLITS.get(target.family.name)
        obstacle = why_not(target, job()[1])
        if obstacle is None and target.family.guidance == "two_calls" and runtime.source is not None:
            obstacle = "its second call is answered, and what the cache of that call holds is of the other branch"
        if config.guidance == "on" and obstacle is not None:
            raise UnsupportedModelError(f"guidance of '{runtime.name}' cannot be split: {obstacle}")
        self._may_guide = config.guidance != "off" and obstacle is None
        if self._may_guide and target.family.guidance == "two_calls":
            runtime.claim(DECIDES, by=NAME)
        self.groups = Groups(config, halves=self._may_guide)
        runtime.ledger.on_undo(self.groups.close, by=NAME)
        self.stage = Stage()
        self.patches: list[tuple[str, Patch[Any]]] = []
        self._place_patches()
        self.guidance = GuidanceSplit(runtime, self.groups.pair, self._compute) if self.groups.pair else None
        self.guided = False
        self.share: Share | None = None
        self._tokens: TokenRows | None = None
        self._comm: Comm = self.groups.everybody
        self._mailboxes: dict[Any, Mailbox] = {}
        self._calls = 0
        self._compared: set[int] = set()
        self._device: torch.device | None = None
        runtime.clock.on_end.append(self.finish)
        runtime.ledger.on_undo(lambda: runtime.clock.on_end.remove(self.finish), by=NAME)

    # -- runs -----------------------------------------------------------------------------------------------------

    def begin(self, run: Run) -> None:
        """A run begins: who computes what in it.

        Raises:
            ConfigError: The picture has too few rows, or the run too few evaluations for stale values.
            PlanMismatchError: Modules were replaced since the plan was applied.
        """
        self._settle()
        self.groups.traffic.reset()
        self._mailboxes.clear()
        self._compared.clear()
        self._calls = 0
        self.guided = self._may_guide and self._is_guided(run)
        if self.guidance is not None:
            self.guidance.begin()
        half = self.groups.half
        self._comm = half if self.guided and half is not None else self.groups.everybody
        self.share = self._tokens = None
        if self._comm.size == 1:
            return
        self._check_in_place()
        reason = self.config.why_not_stale(run.num_steps - len(self.runtime.absent(run, None)))
        if reason is not None:
            raise ConfigError(f"'{self.runtime.name}': {reason}")
        if run.grid is None:
            raise UnsupportedModelError(
                f"how the tokens of '{self.runtime.name}' lie is not known, so no rows are cut"
            )
        self._tokens = self._rows_of(run.grid)
        self.share = self._tokens.share

    def finish(self) -> None:
        """The scheduler has taken its last step."""
        self._settle()
        for comm in self.groups.comms:
            if self._calls and comm.size > 1:
                comm.agree("order of operations", [], device=self._device)

    def __call__(self, call: Call, inner: Inner) -> Tree:
        """Compute one call together with the other ranks."""
        latents = call.args[0] if call.args else next(iter(call.kwargs.values()))
        self._device = leaves(latents)[0].device
        for comm in self.groups.comms:
            comm.step = call.step
        try:
            self._refuse_arguments(call)
            if call.step not in self._compared and len(self._compared) < _COMPARED:
                self._compared.add(call.step)
                self.groups.everybody.agree("latents", [checksum(latents)], device=self._device)
            self._calls += 1
            if self.guided and self.guidance is not None:
                return self.guidance(call, inner)
            return self._compute(call, inner, call.branch)
        except BaseException:
            for comm in self.groups.comms:
                comm.abandon()
            self._mailboxes.clear()
            raise

    def _compute(self, call: Call, inner: Inner, branch: Any) -> Tree:
        """One branch's call, in rows if there is somebody to share them with."""
        if self._tokens is None:
            return inner(call)
        mailbox = self._mailboxes.get(branch)
        if mailbox is None or call.begins:
            mailbox = Mailbox(self._comm, None if self.config.mode == "sync" else self.config.warmup)
            self._mailboxes[branch] = mailbox
        computed = set(range(call.run.num_steps)) - self.runtime.absent(call.run, branch)
        mailbox.begin(call.step, last=call.step >= max(computed, default=0))
        self.stage.place = Place(
            mailbox=mailbox,
            tokens=self._tokens,
            halo=self.config.halo if self.config.mode == "partial" else None,
            as_int8=self.config.keys_and_values == "int8",
        )
        try:
            return inner(call)
        finally:
            self.stage.place = None

    # -- inside ---------------------------------------------------------------------------------------------------

    def _place_patches(self) -> None:
        runtime, split, stage = self.runtime, self.split, self.stage
        denoiser, by_path = runtime.target.denoiser, dict(runtime.target.denoiser.named_modules())
        if split.kind == "rows":
            inside = tuple(f"{cut.path}." for cut in split.cuts)
            for path, module in by_path.items():
                if path.startswith(inside) or path in {cut.path for cut in split.cuts}:
                    continue
                if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1:
                    self._patch(path, HaloConv(module, stage, path))
                elif isinstance(module, nn.GroupNorm):
                    self._patch(path, SharedNorm(module, stage, path))
        for cut in split.cuts:
            self._patch(cut.path, CutOutput(by_path[cut.path], stage, cut))
        if split.sized is not None:
            for path, module in by_path.items():
                if path.startswith(f"{split.sized}.") and path.count(".") == split.sized.count(".") + 1:
                    self._patch(path, OwnHeight(module, stage))
                elif (
                    path.startswith(f"{split.sized}.") and isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1
                ):
                    self._patch(path, HaloConv(module, stage, path))
        for path in split.per_token:
            self._patch(path, CutPerToken(by_path[path], stage))
        last = GatherRows if split.kind == "rows" else GatherOutput
        self._patch(split.gather, last(denoiser.get_submodule(split.gather), stage))
        runtime.claim(SCORES, by=NAME)
        for site, module in linear_attentions(runtime.target):
            sum_states(module, stage, site.info.id, runtime.ledger)
        for site, module in routable(runtime.target):
            found = route(module, runtime.ledger, by=NAME, kind=PatchRoute)
            found.layer, found.stage, found.joint = site.info.id, stage, site.info.kind != "self_attn"

    def _patch(self, path: str, patch: Patch[Any]) -> None:
        self.runtime.ledger.set(patch.owner, "forward", patch, by=NAME)
        self.patches.append((path, patch))

    def _check_in_place(self) -> None:
        denoiser = self.runtime.target.denoiser
        for path, patch in self.patches:
            module = submodule(denoiser, path)
            known = module is patch.owner or getattr(module, "base_layer", None) is patch.owner
            if not (known and patch.in_place()):
                raise PlanMismatchError(
                    f"'{path}' of '{self.runtime.name}' was replaced since the plan was applied (a LoRA?): apply the "
                    "plan again after that"
                )

    def _rows_of(self, grid: TokenGrid) -> TokenRows:
        unit = rows_of_a_unit(self.runtime.target.denoiser) if self.split.kind == "rows" else 1
        if grid.reference:
            raise UnsupportedModelError(
                f"'{self.runtime.name}' is given reference pictures, whose tokens are not cut: use the guidance split"
            )
        text = grid.text or (0, 0)
        return TokenRows(
            share=Share(grid.rows, unit, self._comm.size, self._comm.rank),
            frames=grid.frames,
            columns=grid.columns,
            text=text[1] - text[0],
            text_first=text[0] == 0,
        )

    def _is_guided(self, run: Run) -> bool:
        guided = getattr(self.runtime.clock.owner, "do_classifier_free_guidance", None)
        if isinstance(guided, bool):
            return guided
        scale = run.conditions.guidance_scale
        return scale is not None and scale > 1

    def _refuse_arguments(self, call: Call) -> None:
        if self._tokens is None or not self.split.refused:
            return
        given = self.runtime.inputs.by_name(call.args, call.kwargs)
        found = [name for name in self.split.refused if given.get(name) is not None]
        if found:
            raise UnsupportedModelError(
                f"'{self.runtime.name}' is given {', '.join(found)} (by a ControlNet or an adapter), of the whole "
                "picture, which are not cut yet: use guidance on two ranks, or one picture a rank"
            )

    def _settle(self) -> None:
        for comm in self.groups.comms:
            comm.drain()
