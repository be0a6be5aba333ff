"""How one layer is quantised, as a short text: ``w8a8``, ``w4a8-g64-had``, ``w8a8-static``, ``fp8``."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from dit_accel.errors import ConfigError
from dit_accel.registry import Registry

Granularity = Literal["token", "tensor", "static", "bins"]
"""What shares a scale of activations: a token, found anew in each call; a whole tensor, found anew; a tensor, fixed; a
tensor, fixed for each part of a run."""

GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
GROUPS = (16, 32, 64, 128, 256)
FP8 = "fp8"
PLAIN = "plain"
_BITS = re.compile(r"w([48])a(4|8|16)")
_GROUP = re.compile(r"g(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantScheme:
    """The numbers of one linear layer or convolution.

    Args:
        w_bits: Of a weight, 4 or 8.
        a_bits: Of an activation, 4 or 8; 16: activations stay as they are and the weight is multiplied out, which
            saves memory and no time.
        floats: 8-bit floats (e4m3) instead of integers, for both.
        group: Input channels that share a step, of 4-bit weights; 0: the whole output channel does.
        granularity: What shares a scale of activations.
        rotate: Rotate blocks of input channels by Hadamard matrices.
        flat: Transform input channels by matrices that calibration has learned; see :mod:`.affine`.
        w_symmetric: The weights' grid is the same on both sides of 0. 8-bit weights by default, 4-bit ones not.
        a_symmetric: The activations' grid is.

    Raises:
        ConfigError: What does not go together.
    """

    w_bits: int = 8
    a_bits: int = 8
    floats: bool = False
    group: int = 0
    granularity: Granularity = "token"
    rotate: bool = False
    flat: bool = False
    w_symmetric: bool = True
    a_symmetric: bool = True

    def __post_init__(self) -> None:
        if self.w_bits not in (4, 8) or self.a_bits not in (4, 8, 16):
            raise ConfigError(f"weights have 4 or 8 bits and activations 4, 8 or 16, got {self.w_bits}, {self.a_bits}")
        if self.granularity not in GRANULARITIES:
            raise ConfigError(f"a scale is for one of {', '.join(GRANULARITIES)}, got '{self.granularity}'")
        if self.group and (self.w_bits != 4 or self.group not in GROUPS):
            raise ConfigError(
                f"groups are for 4-bit weights, of {', '.join(map(str, GROUPS))} channels; got {self.group} of "
                f"{self.w_bits} bits"
            )
        if self.w_bits == 4 and not self.group and not self.w_symmetric:
            raise ConfigError("4-bit weights without groups are symmetric: give a group, or 'wsym'")
        if self.floats and (self.w_bits, self.a_bits, self.group) != (8, 8, 0):
            raise ConfigError("8-bit floats are for weights and activations alike, without groups")
        if self.floats and not (self.w_symmetric and self.a_symmetric):
            raise ConfigError("8-bit floats have no zero point")
        if self.flat and self.rotate:
            raise ConfigError("a learned transform has the rotation in it: give 'flat' or 'had'")
        if self.is_static and not self.a_symmetric:
            raise ConfigError("fixed scales are symmetric here")
        if self.a_bits == 16 and (self.granularity != "token" or not self.a_symmetric):
            raise ConfigError("activations of 16 bits have no scale")

    @classmethod
    def parse(cls, text: str) -> "QuantScheme":
        """Read what :meth:`__str__` writes.

        Raises:
            ConfigError: It is no scheme.
        """
        head, *options = str(text).split("-")
        bits = _BITS.fullmatch(head)
        if bits is None and head != FP8:
            raise ConfigError(
                f"'{text}' is no scheme: write {FP8} or w8a8, w4a8, w8a16, ... and options behind it, such as "
                "w4a8-g64-had"
            )
        fields: dict[str, object] = {"floats": True}
        if bits is not None:
            w_bits, a_bits = int(bits[1]), int(bits[2])
            # What a name alone means: groups of 64 where 4 bits are to hold (ViDiT-Q), one scale elsewhere.
            fields = {"w_bits": w_bits, "a_bits": a_bits}
            if w_bits == 4:
                fields |= {"group": 64, "w_symmetric": False}
        for option in options:
            fields |= _option(option, text)
        return cls(**fields)  # type: ignore[arg-type]

    def __str__(self) -> str:
        parts = [FP8 if self.floats else f"w{self.w_bits}a{self.a_bits}"]
        if self.w_bits == 4 and self.group != 64:
            parts.append(f"g{self.group}" if self.group else "channel")
        elif self.w_bits == 4 and self.w_symmetric:
            parts.append("wsym")
        if self.w_bits == 4 and self.group not in (0, 64) and self.w_symmetric:
            parts.append("wsym")
        if self.w_bits == 8 and not self.w_symmetric:
            parts.append("wasym")
        if self.granularity != "token":
            parts.append(self.granularity)
        if not self.a_symmetric:
            parts.append("aasym")
        if self.rotate:
            parts.append("had")
        if self.flat:
            parts.append("flat")
        return "-".join(parts)

    @property
    def is_static(self) -> bool:
        """Whether the scales of activations are fixed beforehand."""
        return self.granularity in ("static", "bins")

    @property
    def width(self) -> str:
        """What a table calls it: the bits, without the options."""
        return FP8 if self.floats else f"w{self.w_bits}a{self.a_bits}"

    def weight_bits(self) -> float:
        """Bits that a weight takes, with the steps of its group; without the scale of its channel."""
        return self.w_bits + (16 / self.group if self.group else 0)


def _option(option: str, text: str) -> dict[str, object]:
    if option in GRANULARITIES:
        return {"granularity": option}
    known: dict[str, dict[str, object]] = {
        "had": {"rotate": True},
        "flat": {"flat": True},
        "wsym": {"w_symmetric": True},
        "wasym": {"w_symmetric": False},
        "aasym": {"a_symmetric": False},
        "channel": {"group": 0, "w_symmetric": True},
    }
    group = _GROUP.fullmatch(option)
    if group is not None:
        return {"group": int(group[1])}
    if option not in known:
        options: Registry[dict[str, object]] = Registry("option of a scheme")
        for name in (*known, *GRANULARITIES, "g64"):
            options.register(name)({})
        try:
            options.get(option)
        except ConfigError as error:
            raise ConfigError(f"'{text}': {error}") from error
    return known[option]
