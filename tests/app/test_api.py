"""The explorer as an API, and from the command line."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

gradio_client = pytest.importorskip("gradio_client", reason="the extra 'app' is not installed")


@pytest.fixture(scope="module")
def client(served: tuple[str, Path]) -> Iterator[Any]:
    made = gradio_client.Client(served[0], verbose=False, analytics_enabled=False)
    yield made
    made.close()


def test_only_what_is_meant_for_others_is_public(client: Any) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/models", "/front", "/choose", "/draw"}


def test_front_and_every_way_to_choose(client: Any) -> None:
    assert "emoji-flux" in client.predict(api_name="/models")
    front = client.predict("emoji-flux", False, api_name="/front")
    points = {point["key"]: point for point in front["points"]}
    fast = points["ours/fast"]
    assert fast["certified"] and points["plain"]["speedup"] is None
    seconds, st_lpips = fast["seconds"], fast["errors"]["st_lpips"]["mean"]
    gestures = {
        "point": "ours/fast",
        "row": "fast",
        "time": str(seconds),
        "brush": f"{seconds * 0.97},{seconds * 1.03}",
        "quality": str(st_lpips),
    }
    for how, value in gestures.items():
        found = client.predict("emoji-flux", how, value, "st_lpips", api_name="/choose")
        assert found["key"] == "ours/fast", how
        assert 'accelerate_pipeline(load_embedded("emoji-flux"), "fast")' in found["code"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("emoji-fluxx", "point", "plain", ""), "Did you mean 'emoji-flux'"),
        (("emoji-flux", "tme", "1", ""), "nobody can choose by 'tme'"),
        (("emoji-flux", "time", "0.0001", ""), "the nearest"),
        (("../../etc", "point", "plain", ""), "no front of"),
    ],
)
def test_mistakes_are_said(client: Any, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(gradio_client.exceptions.AppError, match=words):
        client.predict(*arguments, api_name="/choose")


def test_draw(client: Any) -> None:
    drawn = client.predict("emoji-flux", "ours/fast", "an owl", 3, 0, api_name="/draw")
    picture = Image.open(io.BytesIO(base64.b64decode(drawn["png_base64"])))
    assert picture.size == (64, 64)
    assert drawn["certified"] and "68%" in drawn["summary"] and drawn["seconds"] > 0
    again = client.predict("emoji-flux", "ours/fast", "an owl", 3, 0, api_name="/draw")
    assert again["png_base64"] == drawn["png_base64"]


def test_files_of_the_machine_are_not_served(served: tuple[str, Path]) -> None:
    import httpx

    for path in ("/etc/passwd", str(Path(__file__).resolve()), "../../../etc/passwd"):
        assert httpx.get(f"{served[0]}gradio_api/file={path}").status_code in (403, 404)


def test_more_than_the_limit_is_not_taken(served: tuple[str, Path]) -> None:
    """64 MiB and a little more are refused while they are uploaded; a small file is taken."""
    import httpx

    address = f"{served[0]}gradio_api/upload"
    taken = httpx.post(address, files={"files": ("report.json", b"{}")}, timeout=100)
    assert taken.status_code == 200
    large = httpx.post(address, files={"files": ("report.json", bytes(65 * 2**20))}, timeout=100)
    assert large.status_code == 413


def test_an_uploaded_file_cannot_be_somewhere_else(served: tuple[str, Path]) -> None:
    """A name that climbs, and a path of this machine in place of an upload."""
    import httpx

    answer = httpx.post(f"{served[0]}gradio_api/upload", files={"files": ("../../../evil.json", b"{}")}, timeout=100)
    assert answer.status_code != 200 or ".." not in answer.json()[0]
    for path in ("/etc/passwd", str(served[1] / "in")):
        assert httpx.get(f"{served[0]}gradio_api/file={path}", timeout=100).status_code in (403, 404)


def test_what_is_drawn_is_what_was_asked_for(client: Any) -> None:
    plain = client.predict("emoji-flux", "plain", "an owl", 3, 4, api_name="/draw")
    other = client.predict("emoji-flux", "plain", "an owl", 4, 4, api_name="/draw")
    assert plain["png_base64"] != other["png_base64"] and plain["summary"] == "" and not plain["certified"]
    with pytest.raises(gradio_client.exceptions.AppError, match="has no point"):
        client.predict("emoji-flux", "ours/fest", "an owl", 3, 4, api_name="/draw")


def test_it_listens_on_this_machine_only(served: tuple[str, Path]) -> None:
    assert served[0].startswith("http://127.0.0.1:")


def test_nothing_is_told_to_anybody(served: tuple[str, Path]) -> None:
    import httpx

    assert httpx.get(f"{served[0]}config").json()["analytics_enabled"] is False
