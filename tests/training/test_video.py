"""The shortcuts of video training are exact: frame-wise convolutions, chosen frames, plain attention, zero padding."""

from pathlib import Path

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from dit_accel.errors import ConfigError
from dit_accel.training.denoiser import denoiser_loop
from dit_accel.training.frames import FramePhase, HeadConfig, choose_frames
from dit_accel.training.kinds import KINDS
from dit_accel.training.kinds.wan_kind import FLOW_SHIFT
from dit_accel.training.loop import LoopConfig
from dit_accel.training.motion_heads import build_heads, path_numbers
from dit_accel.training.sprites import Motion, draw_trajectory
from dit_accel.training.vae import vae_loop
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
from dit_accel.training.wan_attention import ChosenFramesRope, MatmulAttention

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
        FramePhase(until_frac=1, frames=((4, 1.0),), flow_shift=5.0),
    )
    data = VideoLatents(
        latents=torch.arange(4.0).view(1, 1, 4, 1, 1).expand(6, 4, 4, 4, 4).half(),
        text={"input_ids": torch.full((6, 5), 7)},
        empty={"input_ids": torch.zeros(1, 5, dtype=torch.long)},
        paths=torch.arange(4.0).view(1, 4, 1).expand(6, 4, 3),
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
            assert (batch.objective is None) == (progress < 0.5)
            assert torch.equal(batch.path[0, :, 0], batch.frames.float())
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
        latents=torch.randn(1, 4, 4, 4, 4).half(), text=text, empty=text, paths=torch.zeros(1, 4, 3),
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


def test_heads_read_their_block_and_ask_for_frame_and_path() -> None:
    model = trained_looking_wan()
    configs = {"frame_head": HeadConfig(block=1, weight=0.5), "path_head": HeadConfig(block=0, weight=0.25)}
    heads = build_heads(model, configs, num_frames=4)
    assert set(heads["frame_head"].state_dict()) == {"weight", "bias"}
    model(torch.randn(2, 4, 3, 4, 4), torch.tensor([500.0, 20.0]), torch.randn(2, 5, 16))
    frames, path = torch.tensor([0, 1, 3]), torch.randn(2, 3, 3)
    tokens = {name: head.seen.detach().view(2, 3, 4, -1) for name, head in heads.items()}
    frame_head, path_head = heads["frame_head"], heads["path_head"]
    by_hand = sum(-frame_head(tokens["frame_head"][:, k]).log_softmax(-1)[..., f].mean() for k, f in enumerate(frames))
    torch.testing.assert_close(frame_head.loss(frames, path), 0.5 * by_hand / 3)
    error = path_head(tokens["path_head"].mean(2)) - path
    torch.testing.assert_close(path_head.loss(frames, path), 0.25 * error.square().mean())
    path_head.loss(frames, path).backward()
    assert model.blocks[0].ffn.net[0].proj.weight.grad.any() and model.blocks[1].ffn.net[0].proj.weight.grad is None


def test_path_numbers_are_of_unit_size() -> None:
    path = draw_trajectory(Motion(direction="left", scale="grows"), torch.Generator().manual_seed(0))
    numbers = path_numbers(path)
    assert numbers.shape == (16, 3) and numbers.abs().max() < 2.5
    assert (numbers[:, 0].diff() < 0).all() and (numbers[:, 2].diff() > 0).all()


def test_phases_are_checked() -> None:
    with pytest.raises(ConfigError, match="add up to 1"):
        FramePhase(until_frac=1, frames=((1, 0.5),))
    with pytest.raises(ConfigError, match="until_frac"):
        FramePhase(until_frac=1.5, frames=((1, 1.0),))
