"""Text to image to video: who is called with what, that chunks continue each other, a run on emoji-wan."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.pipelines import factorised
from dit_accel.pipelines.factorised import FactorisedConfig, FactorisedTextToVideo
from dit_accel.pipelines.first_frames import FirstFrames


class Places:
    """Remembers where it was moved."""

    def __init__(self, device: str = "cuda:1") -> None:
        self.calls: list[dict[str, Any]] = []
        self.device = device
        self.moves: list[str] = []
        self.before_call: Callable[[], None] = lambda: None

    def to(self, device: str) -> None:
        self.device = device
        self.moves.append(device)


class Painter(Places):
    def __call__(self, prompt: str, *, generator: Any, output_type: str, num_inference_steps: int = 28) -> Any:
        self.before_call()
        self.calls.append({"prompt": prompt, "steps": num_inference_steps, "seed": generator.initial_seed()})
        return SimpleNamespace(images=torch.rand(1, 3, 8, 8, generator=generator))


class Animator(Places):
    """Brightens the image a little from frame to frame."""

    def __call__(
        self, *, image: Any, prompt: str, generator: Any, output_type: str, num_frames: int = 5, height: int = 16,
        width: int = 16, guidance_scale: float = 5.0,
    ) -> Any:  # fmt: skip
        import numpy as np

        self.before_call()
        first = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
        self.calls.append(
            {"prompt": prompt, "size": image.size, "seed": generator.initial_seed(), "scale": guidance_scale}
        )
        return SimpleNamespace(frames=torch.stack([(first + 0.1 * k).clamp(0, 1) for k in range(num_frames)])[None])


def test_each_half_is_called_with_what_is_its_own() -> None:
    painter, animator = Painter(), Animator()
    config = FactorisedConfig(chunks=3, image={"num_inference_steps": 4}, video={"guidance_scale": 1.0})
    told = []
    make = FactorisedTextToVideo(painter, animator, config)
    motions = ["it moves", "it stops", "it grows"]
    video = make("an apple", motion=motions, seed=7, on_chunk=lambda n, new: told.append((n, len(new))))
    assert painter.calls == [{"prompt": "an apple", "steps": 4, "seed": 7}]
    assert [call["prompt"] for call in animator.calls] == motions
    assert [call["seed"] for call in animator.calls] == [8, 9, 10]
    assert all(
        call["size"] == (16, 16) and call["scale"] == 1.0 for call in animator.calls
    )  # resized, and no guidance
    assert told == [(0, 4), (1, 4), (2, 4)]
    assert len(video) == 1 + 3 * 4


def test_a_chunk_continues_the_last_frame_of_the_one_before() -> None:
    make = FactorisedTextToVideo(Painter(), Animator(), FactorisedConfig(chunks=2, video={"height": 8, "width": 8}))
    video = make("an apple", seed=1)
    for k in range(1, len(video)):  # brighter by 0.1 each time, across the border of chunks too
        torch.testing.assert_close(video[k], (video[k - 1] + 0.1).clamp(0, 1), atol=0.01, rtol=0)
    assert make.to_video.calls[1]["prompt"] == "an apple"


class AnimatorOfOneSize(Places):
    """As CogVideoX's: a size that is not asked for is the model's own, and the image is brought to it."""

    def __call__(
        self, *, image: Any, prompt: str, generator: Any, output_type: str, height: int | None = None,
        width: int | None = None, num_frames: int = 5,
    ) -> Any:  # fmt: skip
        self.calls.append({"size": image.size})
        return SimpleNamespace(frames=torch.rand(1, num_frames, 3, height or 12, width or 20, generator=generator))


def test_a_pipeline_may_have_a_size_of_its_own() -> None:
    animator = AnimatorOfOneSize()
    video = FactorisedTextToVideo(Painter(), animator, FactorisedConfig(chunks=2))("an apple")
    assert video.shape == (1 + 2 * 4, 3, 12, 20)
    assert [call["size"] for call in animator.calls] == [(8, 8), (20, 12)]  # the image's, then the video's


@pytest.mark.parametrize(("chunks", "overlap", "frames"), [(1, 3, 5), (3, 1, 13), (3, 2, 11)])
def test_frames_that_overlap_are_there_once(
    monkeypatch: pytest.MonkeyPatch, chunks: int, overlap: int, frames: int
) -> None:
    class Continued:
        def __init__(self, pipe: Any) -> None:
            self.pipe = pipe

        def __call__(self, prompt: str, *, frames: torch.Tensor, generator: Any) -> torch.Tensor:
            new = torch.rand(5 - len(frames), *frames.shape[1:], generator=generator)
            return torch.cat([frames, new])

    monkeypatch.setattr(factorised, "FirstFrames", Continued)
    config = FactorisedConfig(chunks=chunks, overlap=overlap)
    video = FactorisedTextToVideo(Painter(), Painter(), config)("an apple")
    assert len(video) == frames == 5 + (chunks - 1) * (5 - overlap)


def test_an_image_may_be_smaller_than_a_frame_and_its_border_goes_on() -> None:
    painter = Painter()
    config = FactorisedConfig(image_frac=0.5, video={"height": 16, "width": 16})
    make = FactorisedTextToVideo(painter, Animator(), config)
    image = torch.full((1, 3, 16, 16), 0.75)
    image[:, :, 4:12, 4:12] = 0.25
    fitted = make._fitted(image)
    assert fitted.shape == (1, 3, 16, 16)
    torch.testing.assert_close(fitted[..., :4, :], torch.full((1, 3, 4, 16), 0.75))
    torch.testing.assert_close(fitted.flip(-1), fitted)
    torch.testing.assert_close(fitted[..., 7:9, 7:9], torch.full((1, 3, 2, 2), 0.25))
    with pytest.raises(ConfigError, match="image_frac"):
        FactorisedConfig(image_frac=0)


def test_only_the_half_that_works_is_on_its_device() -> None:
    painter, animator = Painter("cuda:0"), Animator("cuda:1")
    seen = []
    painter.before_call = animator.before_call = lambda: seen.append((painter.device, animator.device))
    make = FactorisedTextToVideo(painter, animator, FactorisedConfig(chunks=2, offload=True))
    assert painter.device == animator.device == "cpu", "before the first call, too"
    for _ in range(2):
        make("an apple")
        assert seen == [("cuda:0", "cpu"), ("cpu", "cuda:1"), ("cpu", "cuda:1")]
        seen.clear()
    assert painter.moves == ["cpu", *["cuda:0", "cpu"] * 2] and animator.moves == ["cpu", *["cuda:1", "cpu"] * 2]
    FactorisedTextToVideo(painter, animator, FactorisedConfig())("an apple")
    assert len(painter.moves) == len(animator.moves) == 5, "moved only where it is asked for"


def test_what_cannot_be_is_said() -> None:
    from diffusers import StableVideoDiffusionPipeline

    with pytest.raises(ConfigError, match="'overlap' must be 1"):
        FactorisedTextToVideo(Painter(), Animator(), FactorisedConfig(overlap=2))
    with pytest.raises(ConfigError, match="wanted one motion, or 2, got 3"):
        FactorisedTextToVideo(Painter(), Animator(), FactorisedConfig(chunks=2))("a", motion=["b", "c", "d"])
    with pytest.raises(ConfigError, match="has nothing new"):
        FactorisedTextToVideo(Painter(), Animator(), FactorisedConfig(video={"num_frames": 1}))("a")
    with pytest.raises(ConfigError, match="1 or more"):
        FactorisedConfig(chunks=0)
    with pytest.raises(UnsupportedModelError, match="StableVideoDiffusionPipeline takes no prompt"):
        FactorisedTextToVideo(Painter(), StableVideoDiffusionPipeline.__new__(StableVideoDiffusionPipeline))
    with pytest.raises(UnsupportedModelError, match="one latent frame of several"):
        FactorisedTextToVideo(Painter(), Painter())


def test_first_frames_are_put_back_at_every_step_at_its_noise() -> None:
    """On the emoji model, in three steps: latents hold the frame exactly in the end, and the video goes on from it."""
    from dit_accel import load_embedded

    pipe = load_embedded("emoji-wan")
    pipe.set_progress_bar_config(disable=True)
    frames = torch.ones(1, 3, 64, 64)
    frames[:, 1:, 20:40, 20:40] = 0.1
    first = FirstFrames(pipe)
    call = {"num_frames": 3, "num_inference_steps": 3, "guidance_scale": 1.0}
    prompt = "a red apple moves right"
    video = first(prompt, frames=frames, generator=torch.Generator().manual_seed(0), **call)
    assert video.shape == (3, 3, 64, 64)
    assert torch.equal(video[:1], frames)
    again = first(prompt, frames=frames, generator=torch.Generator().manual_seed(0), **call)
    assert torch.equal(video, again)
    other = pipe(prompt, generator=torch.Generator().manual_seed(0), output_type="pt", **call).frames[0]
    assert not torch.equal(video[1:], other[1:].clamp(0, 1))


def test_a_student_draws_and_the_video_model_goes_on_one_call_a_step() -> None:
    """The whole chain on the embedded models: text, image in one step, two chunks that continue each other."""
    from dit_accel import DistilledConfig, accelerate_pipeline, load_embedded, remove_acceleration
    from dit_accel.embedded import embedded_path

    flux, wan = load_embedded("emoji-flux"), load_embedded("emoji-wan")
    for pipe in (flux, wan):
        pipe.set_progress_bar_config(disable=True)
    calls: dict[str, int] = {"flux": 0, "wan": 0}
    for name, pipe in (("flux", flux), ("wan", wan)):

        def count(*_: Any, name: str = name) -> None:
            calls[name] += 1

        pipe.transformer.register_forward_pre_hook(count)
    students = embedded_path("emoji-flux").parent / "students"
    accelerate_pipeline(flux, DistilledConfig.from_student(students / "emoji-flux-lcm-1-2-4"))
    config = FactorisedConfig(
        chunks=2, overlap=1, offload=True, image={"num_inference_steps": 1},
        video={"num_inference_steps": 2, "num_frames": 3, "guidance_scale": 1.0},
    )  # fmt: skip
    make = FactorisedTextToVideo(flux, wan, config)
    motion = ["a red apple moves right", "a red apple grows"]
    video = make("a red apple", motion=motion, seed=3)
    assert video.shape == (1 + 2 * 2, 3, 64, 64) and torch.isfinite(video).all()
    assert calls == {"flux": 1, "wan": 2 * 2}, "no second call for guidance"
    image = flux("a red apple", num_inference_steps=1, generator=torch.Generator().manual_seed(3), output_type="pt")
    torch.testing.assert_close(video[:1], image.images.clamp(0, 1))
    assert torch.equal(make("a red apple", motion=motion, seed=3), video)
    other = make("a red apple", motion=[motion[0], motion[0]], seed=3)
    assert torch.equal(other[:3], video[:3]) and not torch.equal(other[3:], video[3:])
    remove_acceleration(flux)
