"""Moments of sites on disk: made once, and found again by calls that go on and by worker processes."""

from pathlib import Path

from dit_accel.calibration.corrections import Moments
from dit_accel.calibration.store import Store
from dit_accel.evaluation.progress_files import read_json, write_json

SAID = "moments.json"


def keep_moments(folder: Path, moments: Moments) -> Moments:
    """Write them; returns them as the files hold them.

    Raises:
        ConfigError: They cannot be written.
    """
    store = Store(folder)
    kept = {site: store.keep(f"moments-{place:04d}", sums) for place, (site, sums) in enumerate(moments.sites.items())}
    counts = {site: moments.counts[site] for site in kept}
    said = {"num_steps": moments.num_steps, "horizon": moments.horizon, "counts": counts}
    write_json(folder / SAID, said)
    return Moments(num_steps=moments.num_steps, horizon=moments.horizon, sites=kept, counts=counts)


def load_moments(folder: Path) -> Moments | None:
    """Those of a folder; ``None``: there are none that are whole."""
    from safetensors import SafetensorError

    said = read_json(folder / SAID)
    if said is None:
        return None
    store = Store(folder)
    try:
        sites = {site: store.mapped(f"moments-{place:04d}") for place, site in enumerate(said["counts"])}
        return Moments(num_steps=said["num_steps"], horizon=said["horizon"], sites=sites, counts=said["counts"])
    except (OSError, SafetensorError, KeyError, TypeError):
        return None
