"""The attention page's tables: from results, and honest where there are none."""

import json
from pathlib import Path

from pages.attention import (
    attention_gpu_block,
    attention_papers,
    attention_papers_block,
    attention_quality_block,
    attention_times_block,
)
from pages.measured import if_measured

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
    "per_video": {"psnr_db": [30.27, 32.27]},
}
RASTER = {**ROW, "order": "raster", "psnr_db": 29.5, "per_video": {"psnr_db": [28.0, 33.0, 27.5]}}
RESULT = {
    "rows": [ROW, {**ROW, "cached": True}, RASTER],
    "settings": {"model": "emoji-wan", "tokens": 1024, "block": 32, "prompts": ["a", "b", "c"]},
    "plain_motion_right": [1.0, 0.0, 1.0],
}
TIMES = {
    "rows": [
        {"length": 1024, "density": 0.5, "dense_ms": 10.0, "choose_ms": 0.5, "move_ms": 1.0}
        | {"speedup": 0.9, "speedup_min": 0.8, "speedup_max": 1.0},
        {"length": 4096, "density": 0.3, "dense_ms": 200.0, "choose_ms": 1.0, "move_ms": 3.0}
        | {"speedup": 2.5, "speedup_min": 2.4, "speedup_max": 2.7},
    ],
    "settings": {"repeats": 7, "heads": 2, "head_dim": 64, "dtype": "float32", "block": 64},
    "environment": {"torch_threads": 1, "cpu": "a CPU", "packages": {"torch": "2.15.0"}},
}
GPU_ROW = {
    "length": 4096,
    "head_dim": 128,
    "block": 64,
    "dense_ms": {"slow": 4.0, "fast": 2.0, "none": "not installed"},
    "sparse": [{"density": 0.5, "ms": 1.0, "dense_equivalent_tflops": 123.4}],
}


def test_what_was_not_measured_says_which_command_measures_it(tmp_path: Path) -> None:
    assert if_measured("none.json", "python x.py", lambda result: "no", tmp_path) == "Not measured yet: `python x.py`."
    assert attention_papers(tmp_path).count("not measured yet") == 14 + 2
    (tmp_path / "some.json").write_text(json.dumps({"a": 1}), encoding="utf-8")
    assert if_measured("some.json", "python x.py", lambda result: str(result["a"]), tmp_path) == "1"


def test_rows_are_told_with_their_order_their_cache_and_their_number_of_videos() -> None:
    block = attention_quality_block(RESULT)
    own = "| PAROAttention | an order for each head | 0.3 | 2 | 56% | 31.3 dB | 0.0123 | 1.04x | 75% | 50% |"
    assert own in block and "| an order for each head, every second step cached |" in block
    assert "| PAROAttention | raster | 0.3 | 3 |" in block, "each row with the videos that it has"
    assert "equal density: 0.3: +0.77 dB, nearer in 1 of 2 videos." in block
    papers = attention_papers_block(RESULT)
    assert "| not measured yet | 31.3 dB, 56% left out |" in papers
    alone = attention_quality_block({**RESULT, "rows": [ROW]})
    assert "equal density" not in alone, "nothing to compare it with"


def test_times_may_be_of_some_densities_at_some_lengths() -> None:
    block = attention_times_block(TIMES)
    assert "| 1,024 | 10.0 ms | 0.90x [0.80, 1.00] | not measured yet | 5.0% | 10.0% |" in block
    assert "| 4,096 | 200.0 ms | not measured yet | 2.50x [2.40, 2.70] | 0.5% | 1.5% |" in block
    assert "At 1,024 tokens the median is quicker at none." in block
    assert "At 4,096 tokens the median is quicker at every density that was measured." in block
    more = {**TIMES["rows"][0], "density": 0.1, "speedup": 1.4}
    block = attention_times_block({**TIMES, "rows": [more, *TIMES["rows"]]})
    assert "At 1,024 tokens the median is quicker at 0.1, and not at 0.5." in block


def test_the_best_dense_attention_is_the_rival() -> None:
    assert "| fast 2.00 ms | 0.5 | 1.00 ms | 2.00x | 123 TFLOPS |" in attention_gpu_block({"block_sparse": [GPU_ROW]})
    small = {"length": 4096, "head_dim": 64, "dense_ms": {"sdpa": 3.0}}
    block = attention_gpu_block(
        {
            "sla": [{**small, "block": 64, "marginal_ms": 0.5}],
            "vmoba": [{**small, "boxes": 72, "density": 0.25, "attend_ms": "OutOfMemoryError: no"}],
            "whole_calls": [
                {"name": "wan", "dense_ms": 90.0, "sparse": [{"pass": "sla", "density": 0.1, "ms": 45.0}]}
            ],
        }
    )
    assert "| sdpa 3.00 ms | 0.05 | 0.50 ms | 6.00x |" in block and "| 0.25 | OutOfMemoryError: no |" in block
    assert "A whole call of wan, random weights, 90 ms dense: sla at 0.1 2.00x." in block


def test_the_papers_stand_beside_what_ours_takes(tmp_path: Path) -> None:
    for name, result in (("cpu", TIMES), ("gpu", {"block_sparse": [GPU_ROW]}), ("emoji-wan", RESULT)):
        (tmp_path / f"attention-{name}.json").write_text(json.dumps(result), encoding="utf-8")
    told = attention_papers(tmp_path)
    assert "on the CPU, against SDPA: 2.50x at 0.3 (4,096 tokens)" in told and "31.3 dB" in told
    assert "on a GPU, against the best dense attention: 2.00x at 0.5 (4,096 tokens)" in told
