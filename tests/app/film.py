"""Films a visit to the explorer for the README: ``python tests/app/film.py docs/explorer.webp``."""

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

SIZE, SHRUNK = (1180, 860), (826, 602)
SHORT_MS, LONG_MS = 350, 1600


def film(path: Path) -> None:
    """Write the moving picture.

    Args:
        path: A .webp.
    """
    from explorer_pages import brush, type_limit, wait_for, wait_for_pictures
    from playwright.sync_api import sync_playwright

    from dit_accel.app.fronts import front_of_model
    from dit_accel.app.run import launch

    frames: list[tuple[Image.Image, int]] = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        served = launch(folder=Path(folder), output=Path(folder) / "out", device="cpu", block=False)
        found = next(path for name in ("chromium", "google-chrome") if (path := shutil.which(name)))
        page = play.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"]).new_page(
            viewport={"width": SIZE[0], "height": SIZE[1]}
        )
        page.set_default_timeout(300_000)

        def take(milliseconds: int) -> None:
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            frames.append((picture.resize(SHRUNK, Image.Resampling.LANCZOS), milliseconds))

        page.goto(served.local_url + "?__theme=light")
        wait_for_pictures(page)
        take(LONG_MS)
        for key in ("extreme", "fast", "balanced"):
            page.locator(f'#plot .pt[data-key="ours/{key}"] .m').hover()
            take(SHORT_MS)
            page.locator(f'#plot .pt[data-key="ours/{key}"] .m').click()
            wait_for(page, f"ours/{key}")
            wait_for_pictures(page)
            take(LONG_MS)
        front = front_of_model("emoji-flux")
        seconds = front.time_s(front.point("ours/turbo"))
        assert seconds is not None
        _brushed(page, seconds, brush, take)
        wait_for(page, "ours/turbo")
        wait_for_pictures(page)
        take(LONG_MS)
        type_limit(page, "quality", "0.0001")
        wait_for(page, "ours/fast")
        wait_for_pictures(page)
        take(LONG_MS)
        page.close()
        served.close()
    first, *rest = [frame for frame, _ in frames]
    first.save(
        path, save_all=True, append_images=rest, duration=[each for _, each in frames], loop=0, quality=80, method=6
    )


def _brushed(page: Any, seconds: float, brush: Any, take: Any) -> None:
    """Drag across times, with a picture while the brush is out."""
    up = page.mouse.up

    def taken() -> None:
        take(SHORT_MS * 2)
        up()

    page.mouse.up = taken
    brush(page, seconds * 0.9, seconds * 1.1)
    page.mouse.up = up


if __name__ == "__main__":
    film(Path(sys.argv[1]))
