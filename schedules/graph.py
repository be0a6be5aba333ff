"""Which outputs of a denoiser can be kept, and who reads them: plain data, no modules, no tensors."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteInfo:
    """One module whose output can be kept.

    Attributes:
        id: Stable name, e.g. ``"blocks.3.attn1"``, ``"single.7.proj_out"``, ``"down_blocks.0"`` or ``"model"``.
        kind: What it computes: ``self_attn``, ``cross_attn``, ``joint_attn``, ``single_attn``, ``ff``, ``ff_context``,
            ``proj_mlp``, ``proj_out``, ``norm``, ``block``, ``resnet``, ``transformer``, ``conv_in``, ``down_block``,
            ``mid_block``, ``up_block``, ``resample``, ``text``, ``model``.
        block: Index of the block it belongs to, counted over the whole denoiser in execution order; ``None`` outside.
        parent: Id of the nearest enclosing site. When the parent is reused, this module does not run.
        feeds: Ids of the only sites that read this output. Empty: native code reads it whenever the parent runs.
        auxiliary: Never scheduled by itself. It runs when one of ``feeds`` is computed, and otherwise returns
            a stand-in of no meaning (a norm in front of a reused attention).
        invariant: The output is the same at every step of a run as long as the conditioning is.
    """

    id: str
    kind: str
    block: int | None = None
    parent: str | None = None
    feeds: tuple[str, ...] = ()
    auxiliary: bool = False
    invariant: bool = False


@dataclass(frozen=True)
class SiteGraph:
    """All sites of one denoiser in execution order; a parent comes before its children.

    Raises:
        ValueError: An id is repeated, or a parent or reader does not exist.
    """

    sites: tuple[SiteInfo, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        ids = {site.id for site in self.sites}
        for site in self.sites:
            if site.id in seen:
                raise ValueError(f"site '{site.id}' appears twice")
            if site.parent is not None and site.parent not in seen:
                raise ValueError(f"site '{site.id}' comes before its parent '{site.parent}'")
            for reader in site.feeds:
                if reader not in ids:
                    raise ValueError(f"site '{site.id}' feeds '{reader}', which does not exist")
            if site.auxiliary and not site.feeds:
                raise ValueError(f"auxiliary site '{site.id}' must name its readers")
            seen.add(site.id)

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Iterator[SiteInfo]:
        return iter(self.sites)

    def __contains__(self, site_id: object) -> bool:
        return site_id in self.index

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each site id."""
        return {site.id: position for position, site in enumerate(self.sites)}

    @cached_property
    def schedulable(self) -> tuple[SiteInfo, ...]:
        """The sites a schedule may name: all but the auxiliary ones."""
        return tuple(site for site in self.sites if not site.auxiliary)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the schedulable sites, each once, in order of first appearance."""
        return tuple(dict.fromkeys(site.kind for site in self.schedulable))

    @cached_property
    def num_blocks(self) -> int:
        """How many blocks the denoiser runs."""
        return 1 + max((site.block for site in self.sites if site.block is not None), default=-1)

    def is_invariant(self, site_id: str) -> bool:
        """Whether a site's output is the same at every step."""
        return self.sites[self.index[site_id]].invariant

    def select(self, pattern: str = "*", *, kinds: Iterable[str] | None = None) -> tuple[SiteInfo, ...]:
        """Schedulable sites whose id matches a shell-style pattern and whose kind is one of ``kinds`` (or any)."""
        wanted = None if kinds is None else frozenset(kinds)
        return tuple(
            site
            for site in self.schedulable
            if fnmatchcase(site.id, pattern) and (wanted is None or site.kind in wanted)
        )
