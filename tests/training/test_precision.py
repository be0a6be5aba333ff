"""Which type a training takes when none is asked for."""

from unittest import mock

import pytest
import torch

from dit_accel.training.precision import training_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has", "wanted"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_what_the_device_multiplies_itself(has: bool, wanted: torch.dtype) -> None:
    with mock.patch("torch.ops.mkldnn._is_mkldnn_bf16_supported", return_value=has):
        assert training_dtype("auto", CPU) is wanted
    with mock.patch("torch.cuda.is_bf16_supported", return_value=has):
        assert training_dtype("auto", torch.device("cuda")) is wanted


def test_what_is_asked_for_is_taken() -> None:
    assert training_dtype("bf16", CPU) is torch.bfloat16 and training_dtype("fp32", CPU) is torch.float32


def test_the_processor_is_asked_for_real() -> None:
    assert training_dtype("auto", CPU) in (torch.bfloat16, torch.float32)
