"""The attention page's tables: from results, and honest where there are none."""

import json
from pathlib import Path

from pages.attention import (
    attention_gpu_block,
    attention_papers,
    attention_papers_block,
    attention_quality_block,
    if_measured,
)

ROW = {
    "technique": "PAROAttention",
    "order": "an order for each head",
    "cached": False,
    "density": 0.3,
    "not_computed_frac": 0.56,
    "psnr_db": 31.27,
    "st_lpips": 0.0123,
    "flicker_ratio": 1.04,
    "motion_right": 0.75,
}
RESULT = {
    "rows": [ROW, {**ROW, "cached": True}],
    "settings": {"model": "emoji-wan", "num": 2, "tokens": 1024, "block": 32},
    "plain_motion_right": 0.5,
}


def test_what_was_not_measured_says_which_command_measures_it(tmp_path: Path) -> None:
    assert if_measured("none.json", "python x.py", lambda result: "no", tmp_path) == "Not measured yet: `python x.py`."
    assert attention_papers(tmp_path).count("not measured yet") == 14
    (tmp_path / "some.json").write_text(json.dumps({"a": 1}), encoding="utf-8")
    assert if_measured("some.json", "python x.py", lambda result: str(result["a"]), tmp_path) == "1"


def test_rows_are_told_with_their_order_and_cache() -> None:
    block = attention_quality_block(RESULT)
    assert "| PAROAttention | an order for each head | 0.3 | 56% | 31.3 dB | 0.0123 | 1.04x | 75% |" in block
    assert "| an order for each head, every second step cached |" in block and "50% move as asked" in block
    papers = attention_papers_block(RESULT)
    assert "| not measured yet | 31.3 dB, 56% left out |" in papers


def test_the_best_dense_attention_is_the_rival() -> None:
    row = {
        "length": 4096,
        "head_dim": 64,
        "block": 64,
        "dense_ms": {"slow": 4.0, "fast": 2.0, "none": "not installed"},
    }
    row["sparse"] = [{"density": 0.5, "ms": 1.0, "dense_equivalent_tflops": 123.4}]
    assert "| fast 2.00 ms | 0.5 | 1.00 ms | 2.00x | 123 TFLOPS |" in attention_gpu_block({"block_sparse": [row]})
