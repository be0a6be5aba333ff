"""Least squares over prompts, with a ridge whose strength predicts left-out prompts best."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

RIDGES = (1e-8, 1e-6, 1e-4, 1e-2)
AT_ONCE = 2**26  # float64 numbers that are stacked at a time: half a gibibyte
FILTER_RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)


def products(regressors: Sequence[torch.Tensor], target: torch.Tensor, at_once: int = AT_ONCE) -> tuple[Any, Any]:
    """Inner products of regressors with each other and with a target, prompt by prompt, in bounded memory.

    Args:
        regressors: R tensors [P, ...].
        target: Of the same shape.
        at_once: Numbers that may be stacked; as many prompts as fit are, at least one.

    Returns:
        float64 [P, R, R] and [P, R].
    """
    each = max(1, at_once // max(1, len(regressors) * target[0].numel()))
    grams, rights = [], []
    for start in range(0, len(target), each):
        part = slice(start, start + each)
        columns = torch.stack([one[part].flatten(1).double() for one in regressors], 1)  # [P, R, D]
        grams.append(torch.einsum("prd,psd->prs", columns, columns))
        rights.append(torch.einsum("prd,pd->pr", columns, target[part].flatten(1).double()))
    return torch.cat(grams).cpu().numpy(), torch.cat(rights).cpu().numpy()


def channel_filter(output: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """The matrix by which the channels of an output explain best what is left of a target; a ridge toward nought.

    All channels have one strength of the ridge, the one that predicts left-out prompts best.

    Args:
        output: [P, C, ...], or packed [P, N, C].
        left: Of the same shape.

    Returns:
        float64 [C, C], from channels of ``output``.
    """
    x, y = (
        (each if each.dim() == 3 else each.flatten(2).transpose(1, 2)).double()  # [P, N, C]
        for each in (output, left.to(output.device))
    )
    gram, right = x.transpose(1, 2) @ x, x.transpose(1, 2) @ y
    eye = torch.eye(x.shape[2], dtype=x.dtype, device=x.device) * torch.diagonal(gram.sum(0)).mean()
    best, found = 0.0, torch.zeros_like(eye)  # nothing mixed explains nothing
    for ridge in FILTER_RIDGES:
        loss = 0.0
        for k in range(len(x)):
            matrix = torch.linalg.solve(gram.sum(0) - gram[k] + ridge * eye, right.sum(0) - right[k])
            loss += float((matrix * (gram[k] @ matrix - 2 * right[k])).sum())
        if loss < best:
            best, found = loss, torch.linalg.solve(gram.sum(0) + ridge * eye, right.sum(0)).T
    return found.cpu()


def ridge_toward(gram: Any, right: Any, prior: Any, ridges: Sequence[float] = RIDGES) -> tuple[Any, float]:
    """Least squares with a ridge toward a prior, its strength by leaving one prompt out.

    Args:
        gram: float64 [P, R, R], of the regressors, by prompt.
        right: float64 [P, R], of regressors and target.
        prior: float64 [R].
        ridges: Strengths to choose from, relative to the regressors' own size.

    Returns:
        The weights [R] and the strength.
    """
    size = np.sqrt(np.maximum(np.einsum("prr->r", gram) / len(gram), 1e-30))
    a, b, start = gram / size[:, None] / size, right / size, prior * size
    whole_a, whole_b = a.sum(0), b.sum(0)
    eye = np.eye(len(size))

    def solve(of_a: Any, of_b: Any, ridge: float, count: int) -> Any:
        return start + np.linalg.solve(of_a + ridge * count * eye, of_b - of_a @ start)

    best, chosen = np.inf, ridges[len(ridges) // 2]
    for ridge in ridges if len(a) > 1 else ():
        loss = 0.0
        for k in range(len(a)):
            w = solve(whole_a - a[k], whole_b - b[k], ridge, len(a) - 1)
            loss += float(w @ a[k] @ w - 2 * w @ b[k])
        if loss < best - 1e-12 * abs(best) or best == np.inf:
            best, chosen = loss, ridge
    return solve(whole_a, whole_b, chosen, len(a)) / size, chosen
