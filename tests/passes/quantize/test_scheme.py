"""Schemes as texts."""

import pytest

from dit_accel.errors import ConfigError
from dit_accel.passes.quantize.scheme import QuantScheme

TEXTS = (
    "w8a8",
    "w8a8-wasym-aasym",
    "w8a8-tensor-had",
    "w8a8-static",
    "w8a8-bins",
    "w8a16",
    "w4a8",
    "w4a8-wsym",
    "w4a8-g128",
    "w4a8-g32-wsym",
    "w4a8-channel",
    "w4a4-had",
    "w4a16",
    "fp8",
)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_written_is_read(text: str) -> None:
    scheme = QuantScheme.parse(text)
    assert str(scheme) == text and QuantScheme.parse(str(scheme)) == scheme


def test_what_a_name_means() -> None:
    assert QuantScheme.parse("w4a8") == QuantScheme(w_bits=4, a_bits=8, group=64, w_symmetric=False)
    assert QuantScheme.parse("w4a8").weight_bits() == 4.25
    assert QuantScheme.parse("w4a8-channel").weight_bits() == 4
    assert QuantScheme.parse("fp8").width == "fp8"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("w3a8", "is no scheme"),
        ("int8", "is no scheme"),
        ("w8a8-g64", "groups are for 4-bit weights"),
        ("w4a8-g63", "groups are for 4-bit weights"),
        ("w8a8-hat", "Did you mean 'had'"),
        ("w8a16-static", "activations of 16 bits have no scale"),
        ("w8a8-static-aasym", "fixed scales are symmetric"),
        ("fp8-aasym", "no zero point"),
        ("fp8-g64", "without groups|groups are for"),
    ],
)
def test_what_does_not_go_together(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        QuantScheme.parse(text)
