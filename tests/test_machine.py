"""What the machine is called."""

from pathlib import Path

import pytest
import torch

import dit_accel.machine as module
from dit_accel.machine import cpu_name, device_name


@pytest.mark.parametrize(
    ("units", "flags", "words"),
    [
        ("AVX512", "avx2 avx512f avx512_vnni avx_vnni", "AMD EPYC (AVX512 with VNNI)"),
        ("AVX512", "avx2 avx512f avx_vnni", "AMD EPYC (AVX512)"),
        ("AVX2", "avx2 avx_vnni", "AMD EPYC (AVX2 with VNNI)"),
        ("AVX2", "avx2", "AMD EPYC (AVX2)"),
        ("DEFAULT", "", "AMD EPYC (DEFAULT)"),
    ],
)
def test_processors_of_one_name_are_told_apart(
    units: str, flags: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nmodel name : AMD EPYC\nflags : {flags}\n\nprocessor : 1\nmodel name : other\n")
    monkeypatch.setattr(module, "_INFO", info)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: units)
    assert cpu_name() == words == device_name(torch.device("cpu"))


def test_without_proc_there_is_a_name_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INFO", tmp_path / "nothing")
    assert cpu_name().endswith(")") and not cpu_name().startswith(" ")
    assert device_name(torch.device("meta")) == "meta"
