"""Learned affine transforms of the input channels: FlatQuant's (Sun et al., arXiv 2410.09426).

A product does not change when the inputs are multiplied by an invertible matrix P and the weights by its inverse; how
it rounds does, and P can be learned for that. P is a Kronecker product of two small matrices, so that applying it to a
token of K channels takes K (n1 + n2) products, K = n1 n2, where a full matrix takes K squared.
"""

from torch import Tensor

SMALLEST_FACTOR = 4  # below, one of the two matrices is nearly as large as a full one


def factors(size: int) -> tuple[int, int]:
    """n1 <= n2 with n1 * n2 = ``size``, as near to each other as there are."""
    first = next(n for n in range(int(size**0.5), 0, -1) if size % n == 0)
    return first, size // first


def has_factors(size: int) -> bool:
    """Whether so many channels can be transformed by two small matrices."""
    return factors(size)[0] >= SMALLEST_FACTOR


def transformed(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """[..., K] times P = left (x) right, for ``left`` [n1, n1] and ``right`` [n2, n2]."""
    parts = x.unflatten(-1, (left.shape[0], right.shape[0]))
    out: Tensor = (left.mT @ (parts @ right)).flatten(-2)
    return out


def inverse_transformed(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """[N, K] times the transposed inverse of P, in fp64: what weights are for transformed inputs."""
    back = left.double().inverse().mT, right.double().inverse().mT
    return transformed(weight.double(), *back).to(weight.dtype)


def restored(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """[N, K]: the inverse of :func:`inverse_transformed`."""
    return transformed(weight, left.mT, right.mT)
