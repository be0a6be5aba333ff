"""What a pass is: a frozen config, and a declaration of what it needs, what it excludes, and how it is applied."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, get_args

from dit_accel.errors import ConfigError
from dit_accel.families.targets import Target
from dit_accel.plan.config import CONFIGS, PassConfig, config_class, pass_names
from dit_accel.registry import Registry
from dit_accel.runtime.call import Effect
from dit_accel.runtime.denoiser import DenoiserRuntime

C = TypeVar("C", bound=PassConfig)

Phase = Literal["weights", "modules", "rows", "calls", "compile"]
"""What a pass changes, in the order of application: weights, modules, what is computed when, whole calls."""

PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass(Generic[C]):
    """One technique.

    Attributes:
        config: Its config class; ``config.type_name`` is the pass's name.
        summary: One line for people.
        phase: When it is applied.
        claims: What it is the only one to do, as a continuation of "both want to be the one that ...": two passes with
            one claim cannot be combined.
        conflicts: Names of passes it cannot be combined with, each with the reason.
        reversible: Whether :func:`dit_accel.remove_acceleration` can undo it. One that cannot be undone is refused
            wherever it would have to be: in ``accelerated``, in ``certify``, and where a plan replaces another.
        irreversible: Whether a config makes it one that cannot be undone, where that depends on it.
        obstacles: Function of a target and the config to the reasons why the pass cannot act on it (none: it can).
        example: A mild config, for a check-up that has none at hand.
        apply: Makes the changes to one denoiser, through the runtime's sockets and ``runtime.ledger``, each with
            ``by=`` the pass's name.
        effect: What the pass says it does to one denoiser and did in the last run; ``None``: nothing to say.
        as_scheduler: From a config, a stock scheduler and the number of denoisers of the plan to a scheduler that does
            the same; ``None``: there is no such form.
    """

    config: type[C]
    summary: str
    phase: Phase
    claims: frozenset[str] = frozenset()
    conflicts: Mapping[str, str] = field(default_factory=dict)
    reversible: bool = True
    irreversible: Callable[[C], bool] = lambda config: False
    obstacles: Callable[[Target, C], list[str]] = lambda target, config: []
    example: Callable[[], C]
    apply: Callable[[DenoiserRuntime, C], None]
    effect: Callable[[DenoiserRuntime, C], Effect | None] = lambda runtime, config: None
    as_scheduler: Callable[[C, Any, int], Any] | None = None

    @property
    def name(self) -> str:
        """What it is called in plans and messages."""
        return self.config.type_name


PASSES: Registry[Pass[Any]] = Registry("pass")


def register_pass(acceleration: Pass[C]) -> Pass[C]:
    """Make a pass known under its config's ``type_name``, to plans in memory and in files.

    Raises:
        ConfigError: The name is taken.
    """
    PASSES.register(acceleration.name)(acceleration)
    CONFIGS.register(acceleration.name)(acceleration.config)
    return acceleration


def obstacles_by_pass() -> dict[str, Callable[[Target], list[str]]]:
    """For every known pass a function from a target to the reasons why it cannot act on it."""

    def check(acceleration: Pass[Any]) -> Callable[[Target], list[str]]:
        return lambda target: acceleration.obstacles(target, acceleration.example())

    return {name: check(find_pass(name)) for name in pass_names()}


def find_pass(name: str) -> Pass[Any]:
    """The pass of a name, imported if need be.

    Raises:
        ConfigError: There is none.
    """
    config_class(name)
    return PASSES.get(name)


def pass_of(config: PassConfig) -> Pass[Any]:
    """The registered pass for a config object.

    Raises:
        ConfigError: The object is no pass config, or its type is not registered.
    """
    if not isinstance(config, PassConfig):
        raise ConfigError(f"expected a pass config such as StaticCacheConfig, got {type(config).__name__}")
    return PASSES.get(config.type_name)
