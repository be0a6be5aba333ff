"""The shortcuts of video training are exact: frame-wise convolutions, chosen frames, plain attention, zero padding."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from dit_accel.errors import ConfigError
from dit_accel.evaluation.motion import track_foreground
from dit_accel.training.denoiser import denoiser_loop
from dit_accel.training.frames import FramePhase, choose_frames
from dit_accel.training.kinds import KINDS
from dit_accel.training.kinds.wan import FLOW_SHIFT
from dit_accel.training.loop import LoopConfig
from dit_accel.training.sprites import Motion
from dit_accel.training.training_set import PATH_LOG_SIZE, PATH_SCALE_PX, VideoSet
from dit_accel.training.vae import vae_loop
from dit_accel.training.video_prompts import VideoCaption
from dit_accel.training.video_vae import (
    FrameCodec,
    build_video_vae,
    decode_frames,
    encode_frames,
    frame_codec,
    normalise,
    set_latent_statistics,
    single_frame_convolutions,
)
from dit_accel.training.videos import VideoLatents
from dit_accel.training.wan import FRAME_WEIGHT, PATH_WEIGHT, ChosenFramesRope, MatmulAttention

KIND = KINDS["wan"]
TEXT = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def small_vae():
    return build_video_vae(base_dim=8, z_dim=4).eval()


def trained_looking_wan():
    model = KIND.build_denoiser(WAN).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@torch.no_grad()
def test_vae_is_exact_frame_by_frame() -> None:
    vae = small_vae()
    codec = FrameCodec(vae)
    frames = torch.rand(5, 3, 16, 16) * 2 - 1
    latents = codec.encode(frames).latent_dist.mode()
    assert latents.shape == (5, 4, 4, 4)
    torch.testing.assert_close(vae.encode(frames[:, :, None]).latent_dist.mode()[:, :, 0], latents)
    one_by_one = codec.decode(latents).sample.clamp(-1, 1)
    together = vae.decode(latents.transpose(0, 1)[None]).sample[0].transpose(0, 1)
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-4)
    with single_frame_convolutions(vae):
        torch.testing.assert_close(codec.decode(latents).sample.clamp(-1, 1), one_by_one, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(decode_frames(vae, latents, batch_size=2), one_by_one, atol=1e-5, rtol=1e-4)
    assert "forward" not in vars(vae.encoder.conv_in)


@torch.no_grad()
def test_the_stock_encoder_loses_frames_which_is_why_it_is_not_used() -> None:
    vae = small_vae()
    assert vae.encode(torch.zeros(1, 3, 16, 16, 16)).latent_dist.mode().shape[2] < 16


def test_latent_statistics() -> None:
    vae = small_vae()
    latents = encode_frames(vae, torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8), torch.float32, batch_size=4)
    assert latents.shape == (9, 4, 4, 4) and latents.dtype == torch.float16
    set_latent_statistics(vae, latents)
    normal = normalise(vae, latents).float().transpose(0, 1).flatten(1)
    torch.testing.assert_close(normal.mean(1), torch.zeros(4), atol=2e-2, rtol=0)
    torch.testing.assert_close(normal.std(1), torch.ones(4), atol=2e-2, rtol=0)


def test_vae_trains(tmp_path: Path) -> None:
    vae = build_video_vae(base_dim=8, z_dim=4)
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    config = LoopConfig(steps=2, batch_size=4, lr=1e-3, warmup_steps=1, log_steps=1)
    with frame_codec(vae) as codec:
        vae_loop(
            vae, images, config, run_dir=tmp_path, seed=0, device=CPU, dtype=torch.bfloat16, compile_modules=False,
            codec=codec,
        ).run()  # fmt: skip
    assert (tmp_path / "vae-000002.png").exists()
    assert not vae.encoder.conv_in.weight[:, :, :-1].any(), "the slots of earlier frames stay empty"


@torch.no_grad()
def test_all_frames_chosen_is_the_stock_embedding_and_fewer_are_its_rows() -> None:
    model = KIND.build_denoiser(WAN)
    video = torch.randn(1, 4, 16, 4, 8)
    stock = model.rope(video)
    rope = ChosenFramesRope(model.rope)
    for chosen in (None, torch.arange(16)):
        rope.chosen = chosen
        for ours, theirs in zip(rope(video), stock, strict=True):
            assert torch.equal(ours, theirs)
    rope.chosen = torch.tensor([2, 7, 15])
    tokens = 2 * 4
    for ours, theirs in zip(rope(video[:, :, :3]), stock, strict=True):
        assert torch.equal(ours, theirs.view(16, tokens, -1)[rope.chosen].view(1, 3 * tokens, 1, -1))


@torch.no_grad()
def test_plain_attention_equals_the_stock_one() -> None:
    model = trained_looking_wan()
    inputs = (torch.randn(2, 4, 3, 4, 4), torch.tensor([500.0, 20.0]), torch.randn(2, 5, 16))
    stock = model(*inputs, return_dict=False)[0]
    for block in model.blocks:
        assert isinstance(block.attn1.processor, WanAttnProcessor)
        block.attn1.processor = block.attn2.processor = MatmulAttention()
    torch.testing.assert_close(model(*inputs, return_dict=False)[0], stock, atol=1e-5, rtol=1e-4)
    assert stock.abs().max() > 0.01


@torch.no_grad()
def test_text_is_encoded_as_the_pipeline_does() -> None:
    texts = ["a red apple moves left", "an egg shrinks", ""]
    tokenizers = KIND.build_tokenizers(texts)
    modules = KIND.build_text_encoders(tokenizers, {"text_encoder": TEXT})
    modules["text_encoder"].eval()
    pipe = WanPipeline(
        **tokenizers, **modules, vae=small_vae(), transformer=KIND.build_denoiser(WAN),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    )  # fmt: skip
    theirs, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False, max_sequence_length=16)
    ours = KIND.encode(modules, KIND.tokenize(tokenizers, texts))["encoder_hidden_states"]
    torch.testing.assert_close(ours, theirs)


def test_chosen_frames_are_spread_and_ascending() -> None:
    generator = torch.Generator().manual_seed(0)
    assert choose_frames(16, 16, generator).tolist() == list(range(16))
    for _ in range(50):
        chosen = choose_frames(4, 16, generator)
        assert (chosen // 4).tolist() == [0, 1, 2, 3]
    time = KIND.objective(torch.Size([4, 16, 4, 4])).times(torch.tensor(0.5))
    assert float(time) == pytest.approx(750) and FLOW_SHIFT == 3


def test_phases_and_positions_follow_the_progress() -> None:
    phases = (
        FramePhase(until_frac=0.5, frames=((1, 0.5), (2, 0.5))),
        FramePhase(until_frac=1, frames=((4, 1.0),)),
    )
    data = VideoLatents(
        latents=torch.arange(4.0).view(1, 1, 4, 1, 1).expand(6, 4, 4, 4, 4).half(),
        paths=torch.zeros(6, 4, 3),
        text={"input_ids": torch.full((6, 5), 7)},
        empty={"input_ids": torch.zeros(1, 5, dtype=torch.long)},
        phases=phases,
    )
    generator = torch.Generator().manual_seed(0)
    for progress, counts in ((0.0, {1, 2}), (0.5, {4}), (0.99, {4})):
        found = set()
        for _ in range(20):
            batch = data.draw(8, progress, 0.5, generator)
            k = len(batch.frames)
            found.add(k)
            assert batch.clean.shape == (8 // k, 4, k, 4, 4), "as many frames in every step"
            assert torch.equal(batch.clean[0, 0, :, 0, 0], batch.frames.float()), "the positions are the frames' own"
            assert set(batch.text["input_ids"].unique().tolist()) <= {0, 7}
        assert found == counts


def test_positions_are_shown_in_steps_only(tmp_path: Path) -> None:
    """A sheet in the middle of training sees whole videos."""
    tokenizers = KIND.build_tokenizers(["an owl"])
    modules = KIND.build_text_encoders(tokenizers, {"text_encoder": TEXT})
    model = modules["transformer"] = KIND.build_denoiser(WAN)
    names = set(model.state_dict())
    text = KIND.tokenize(tokenizers, ["an owl"])
    data = VideoLatents(
        latents=torch.randn(1, 4, 4, 4, 4).half(), paths=torch.zeros(1, 4, 3), text=text, empty=text,
        phases=(FramePhase(until_frac=1, frames=((2, 1.0),)),),
    )  # fmt: skip
    seen: list[object] = []
    model.register_forward_pre_hook(lambda *_: seen.append(model.rope.chosen))
    loop = denoiser_loop(
        KIND, modules, data, LoopConfig(steps=2, batch_size=8, lr=1e-3), caption_drop=0.5, run_dir=tmp_path, seed=0,
        dtype=torch.float32, compile_modules=False, sample_fn=lambda step: seen.append(model.rope.chosen),
    )  # fmt: skip
    loop.run()
    assert [None if frames is None else len(frames) for frames in seen] == [2, 2, None]
    assert set(model.state_dict()) == names, "a checkpoint loads into the stock transformer"


def test_phases_are_checked() -> None:
    with pytest.raises(ConfigError, match="add up to 1"):
        FramePhase(until_frac=1, frames=((1, 0.5),))
    with pytest.raises(ConfigError, match="until_frac"):
        FramePhase(until_frac=1.5, frames=((1, 1.0),))


def test_guessing_the_motion_is_learned_and_leaves_no_trace() -> None:
    model = trained_looking_wan()
    names, blocks = list(model.state_dict()), list(model.blocks)
    guess = KIND.build_auxiliary(model, torch.Size((4, 4, 4, 4)))
    assert not set(map(id, guess.parameters())) & set(map(id, model.parameters())), "the denoiser is no part of it"
    optimizer = torch.optim.AdamW([*model.parameters(), *guess.parameters()], lr=1e-2)
    noisy, text, path = torch.randn(8, 4, 4, 4, 4), torch.randn(8, 5, 16), torch.randn(8, 4, 3)
    losses = []
    for _ in range(40):
        with guess.watching():
            KIND.predict(model, noisy, torch.full((8,), 900.0), {"encoder_hidden_states": text})
            loss = guess(torch.arange(4), path)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0], "one batch can be learned by heart"
    assert list(model.state_dict()) == names and list(model.blocks) == blocks


def test_the_guess_is_about_the_frames_shown() -> None:
    model = trained_looking_wan()
    guess = KIND.build_auxiliary(model, torch.Size((4, 4, 4, 4)))
    for parameter in guess.parameters():
        torch.nn.init.zeros_(parameter)
    text = {"encoder_hidden_states": torch.randn(2, 5, 16)}
    path = torch.full((2, 2, 3), 2.0)
    with guess.watching():
        KIND.predict(model, torch.randn(2, 4, 2, 4, 4), torch.full((2,), 900.0), text)
        blank = guess(torch.tensor([1, 3]), path)
        guess.frame_head.bias.data[3] = 50.0
        wrong_once = guess(torch.tensor([1, 3]), path)
    assert blank.item() == pytest.approx(FRAME_WEIGHT * math.log(4) + PATH_WEIGHT * 4, rel=1e-4)
    assert wrong_once.item() == pytest.approx(FRAME_WEIGHT * 25 + PATH_WEIGHT * 4, rel=1e-3)


def test_paths_belong_to_their_videos() -> None:
    sprite = torch.ones(4, 8, 8)
    sprite[:3] = 0
    motion = Motion(direction="left", scale="grows")
    videos = VideoSet(
        images=torch.empty(0), concepts=[], styles=[], sprites={"x": sprite},
        videos=[VideoCaption(subject="x", motion=motion)] * 2, seed=7,
    )  # fmt: skip
    for k in range(2):
        track = track_foreground(videos.draw_video(k) / 255)
        path = videos.draw_path(k)
        torch.testing.assert_close(path[:, :2] * PATH_SCALE_PX + 32, track.centroid.float(), atol=0.3, rtol=0)
        assert path[-1, 2] - path[0, 2] == pytest.approx(math.log(1.6) / PATH_LOG_SIZE, rel=1e-3)
