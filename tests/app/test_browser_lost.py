"""The server dies while a search runs: the page says so, the search goes on, and a new server finds it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from explorer_pages import go_to, says

from dit_accel.app.searches import searches_in

ROOT = Path(__file__).resolve().parents[2]
SERVE = """
import sys
from pathlib import Path
from dit_accel.app.run import launch
launch(folder=Path(sys.argv[1]), output=Path(sys.argv[1]) / "out", device="cpu", port=int(sys.argv[2]))
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    """Starts an explorer in a process of its own, again on the same port if need be."""
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    port, processes = free_port(), []

    def start() -> tuple[str, subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(tmp_path), str(port)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        processes.append(process)
        for _ in range(600):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return f"http://127.0.0.1:{port}/", process
            assert process.poll() is None
            time.sleep(0.2)
        raise AssertionError("it does not listen")

    yield start
    for process in processes:
        process.kill()
    for search in searches_in(tmp_path / "out" / "calibrate"):
        if search.running:
            os.kill(search.status().pid, signal.SIGKILL)


def test_a_search_outlives_the_server_and_is_found_again(
    serve: Any, chromium: Any, tmp_path: Path, keep_screenshot: Any
) -> None:
    address, process = serve()
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(address + "?__theme=light")
    go_to(page, "Calibrate")
    page.locator("#c-minutes input").fill("60")
    page.locator("#c-certify input").uncheck()
    page.get_by_text("What to choose, and how much to measure").click()
    page.locator("#c-prompts textarea, #c-prompts input").fill("2")
    page.locator("#c-steps textarea, #c-steps input").fill("12")
    page.locator("#c-start").click()
    page.wait_for_function("document.querySelectorAll('#c-plot .pt').length >= 2")
    process.kill()
    process.wait()
    page.wait_for_selector("#lost:visible")
    assert "A search goes on" in page.locator("#lost").inner_text()
    keep_screenshot(page, "lost")
    search = searches_in(tmp_path / "out" / "calibrate")[0]
    assert search.running, "it died with the server"
    serve()
    page.wait_for_selector("#lost", state="hidden")  # the page has loaded itself anew
    page.wait_for_selector("#plot svg.front", state="attached")
    go_to(page, "Calibrate")
    says(page, "#c-status", "judged")
    assert page.locator("#c-search input").input_value() == "emoji-flux"
    page.locator("#c-stop").click()
    says(page, "#c-status", "stopped")
    page.close()
