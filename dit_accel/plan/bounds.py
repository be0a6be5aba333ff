"""Bounds for a certificate that was issued without them, from the report that it was made from.

The report holds every image's value, and the certificate its digest; so nothing is measured anew, and a report that
was changed gives nothing.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit_accel.plan.certificate import VERSION, Certificate
from dit_accel.plan.claims import Measured
from dit_accel.plan.conformal import Bound, conformal_bound

REPORT_FILE = "report.json"


def with_bounds(certificate: Certificate, folder: Path) -> Certificate:
    """The certificate with the bounds of the report that lies in ``folder``, sealed anew.

    Returns:
        The certificate as it is where it has bounds, is broken, or where its own report is not there.
    """
    path = folder / REPORT_FILE
    if certificate.version >= VERSION or not certificate.is_whole or not path.is_file():
        return certificate
    if not certificate.is_of_report(path):
        return certificate
    variants = {variant["kind"]: variant for variant in json.loads(path.read_text(encoding="utf-8"))["variants"]}
    rival = certificate.rival
    changes: dict[str, Any] = {"version": VERSION, "fidelity": _bounded(certificate.fidelity, variants.get("plan"))}
    if rival is not None:
        fidelity = _bounded(rival.fidelity, variants.get("fewer_steps"))
        changes["rival"] = rival.model_copy(update={"fidelity": fidelity})
    return certificate.model_copy(update=changes).sealed()


def _bounded(fidelity: Mapping[str, Measured], variant: Mapping[str, Any] | None) -> dict[str, Measured]:
    found = (variant or {}).get("fidelity") or {}
    metrics = {**found, **(found.get("video") or {})}
    return {
        name: measured.model_copy(update={"bound": _bound(metrics[name])}) if name in metrics else measured
        for name, measured in fidelity.items()
    }


def _bound(metric: Mapping[str, Any]) -> Bound | None:
    return conformal_bound(metric["per_image"], higher_is_better=metric.get("higher_is_better", True))
