"""Which options of ``dit-accel calibrate`` go with which of its searches."""

from collections.abc import Mapping

from dit_accel.errors import ConfigError

LIMITS = ("--max-lpips", "--min-psnr", "--min-speedup", "--name")  # they choose one plan of trajectories
FITS = ("--cohort", "--guidance-range", "--half-calls", "--tail", "--sweeps")  # of trajectories alone
SEARCH = ("--budget", "--generations", "--seed", "--population")
REFUSED = {
    "sites": (*LIMITS, *FITS),
    "ecad": (*LIMITS, *FITS, "--branches", "--plan", "--workers", "--ray"),
    "attention": (*LIMITS, *FITS, *SEARCH, "--branches", "--workers", "--ray"),
}


def check_options(kind: str, given: Mapping[str, bool]) -> None:
    """Refuse what a search would not heed.

    Args:
        kind: ``"sites"``, ``"ecad"``, ``"attention"``, or nothing for trajectories, which take all.
        given: By option whether the user gave it.

    Raises:
        ConfigError: Names the options to leave out.
    """
    wrong = [name for name in REFUSED.get(kind, ()) if given.get(name)]
    if wrong:
        raise ConfigError(f"--{kind} does not heed {', '.join(wrong)}: leave out {', '.join(wrong)}")
