"""What the machine is called, in reports and certificates.

Processors of one name differ in the units that decide how fast small integers are multiplied, so these are part of it.
"""

import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_INFO = Path("/proc/cpuinfo")


def cpu_name() -> str:
    """The processor, with the vector units that torch uses: ``AMD EPYC (AVX512 with VNNI)``."""
    import torch

    name, flags = "", frozenset[str]()
    if _INFO.is_file():
        for line in _INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name" and not name:
                name = value
            elif key == "flags" and not flags:
                flags = frozenset(value.split())
    units = torch.backends.cpu.get_cpu_capability()
    wanted = {"AVX512": "avx512_vnni", "AVX2": "avx_vnni"}.get(units)
    vnni = " with VNNI" if wanted in flags else ""
    return f"{name or platform.processor() or platform.machine() or 'unknown'} ({units}{vnni})"


def device_name(device: "torch.device") -> str:
    """Of the GPU, or of the processor."""
    import torch

    if device.type == "cpu":
        return cpu_name()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
