"""The blocks against torch's encoder layer with the same weights, and against attention written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from steepest.gradient_flow import PostLNBlock, PreLNBlock
from steepest.gradient_flow.attention import SelfAttention

WIDTH, HEADS, HIDDEN = 12, 3, 20
BLOCKS = {"pre": PreLNBlock, "post": PostLNBlock}


def pair(kind, activation=F.relu, bias=True, seed=0):
    """A block and torch's layer with the same random weights, in float64 and eval mode."""
    torch.manual_seed(seed)
    block = BLOCKS[kind](WIDTH, HEADS, HIDDEN, activation=activation, bias=bias).double().eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, activation=activation, batch_first=True, norm_first=kind == "pre", bias=bias
    ).double()
    state = block.state_dict()
    renamed = {
        name.replace("in_proj.weight", "in_proj_weight").replace("in_proj.bias", "in_proj_bias"): value
        for name, value in state.items()
    }
    layer.load_state_dict(renamed)
    return block, layer.eval()


def sequences(batch=4, length=6, seed=1):
    return torch.randn(batch, length, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def padding(batch=4, length=6):
    """Sequences of falling length; the first is whole."""
    lengths = torch.arange(length, length - batch, -1)
    return torch.arange(length)[None, :] >= lengths[:, None]


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("activation", "bias"), [(F.relu, True), (F.gelu, False)])
def test_equals_torchs_layer(kind, is_causal, padded, activation, bias):
    block, layer = pair(kind, activation, bias)
    x = sequences()
    mask = padding() if padded else None
    causal = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.bool) if is_causal else None
    expected = layer(x, src_mask=causal, src_key_padding_mask=mask)
    got = block(x, src_key_padding_mask=mask, is_causal=is_causal)
    real = slice(None) if mask is None else ~mask
    torch.testing.assert_close(got[real], expected[real], rtol=1e-10, atol=1e-10)


@given(st.integers(1, 3), st.integers(1, 5), st.booleans(), st.booleans(), st.integers(0, 9))
def test_attention_equals_its_formula(batch, length, is_causal, padded, seed):
    torch.manual_seed(seed)
    attention = SelfAttention(6, 2).double()
    x = torch.randn(batch, length, 6, dtype=torch.float64)
    mask = torch.rand(batch, length) < 0.4 if padded else None
    if mask is not None:
        mask[:, 0] = False
    got = attention(x, mask, is_causal)

    expected = torch.zeros_like(x)
    q, k, v = (x @ attention.in_proj.weight.T + attention.in_proj.bias).split(6, dim=-1)
    for b in range(batch):
        for h in range(2):
            columns = slice(3 * h, 3 * h + 3)
            for t in range(length):
                seen = [
                    s
                    for s in range(length)
                    if not (is_causal and s > t) and not (mask is not None and bool(mask[b, s]))
                ]
                scores = [math.exp((q[b, t, columns] @ k[b, s, columns]).item() / math.sqrt(3)) for s in seen]
                for score, s in zip(scores, seen, strict=True):
                    expected[b, t, columns] += score / sum(scores) * v[b, s, columns]
    expected = expected @ attention.out_proj.weight.T + attention.out_proj.bias
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", BLOCKS)
def test_padding_changes_nothing_elsewhere(kind):
    block, _ = pair(kind)
    x, mask = sequences(), padding()
    other = torch.where(mask[..., None], 1e3 * torch.randn_like(x), x)
    torch.testing.assert_close(block(x, mask)[~mask], block(other, mask)[~mask])


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_sequence_of_padding_gives_finite_values_and_gradients(kind):
    block, _ = pair(kind)
    x = sequences().requires_grad_()
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[2] = True
    out = block(x, mask, is_causal=True)
    out[~mask].sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("shape", [(0, 6), (4, 0)])
@pytest.mark.parametrize("padded", [False, True])
def test_an_empty_batch_stays_empty(kind, shape, padded):
    block, _ = pair(kind)
    mask = torch.zeros(shape, dtype=torch.bool) if padded else None
    assert block(sequences(*shape), mask, is_causal=True).shape == (*shape, WIDTH)


@pytest.mark.parametrize("kind", BLOCKS)
def test_is_equivariant_to_the_order_of_positions(kind):
    block, _ = pair(kind)
    x, order = sequences(), torch.tensor([3, 1, 0, 5, 4, 2])
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order])


def test_pre_ln_is_the_identity_plus_branches_and_post_ln_is_normalized():
    pre, _ = pair("pre")
    for linear in (pre.self_attn.out_proj, pre.linear2):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    x = sequences()
    torch.testing.assert_close(pre(x), x, rtol=0, atol=0)
    post = PostLNBlock(WIDTH, HEADS, HIDDEN).double().eval()
    out = post(100 * x)
    torch.testing.assert_close(out.mean(-1), torch.zeros_like(out[..., 0]))
    torch.testing.assert_close(out.var(-1, correction=0), torch.ones_like(out[..., 0]), rtol=1e-3, atol=0)


def test_gradients_at_the_first_and_last_block_differ_as_xiong_et_al_say():
    # Post-LN's gradients at initialization are largest at the end of the stack, Pre-LN's don't grow towards it.
    ratios = {}
    for kind, block in BLOCKS.items():
        torch.manual_seed(0)
        stack = nn.Sequential(*[block(32, 4, 64, dropout=0.0) for _ in range(12)], nn.LayerNorm(32))
        stack(torch.randn(8, 10, 32)).pow(2).sum(-1).mul(torch.randn(8, 10)).mean().backward()
        norms = [stack[i].linear2.weight.grad.norm().item() for i in (0, 11)]
        ratios[kind] = norms[1] / norms[0]
    assert ratios["post"] > 1 > ratios["pre"]


@pytest.mark.parametrize("kind", BLOCKS)
def test_dropout_acts_in_training_only(kind):
    torch.manual_seed(0)
    block = BLOCKS[kind](WIDTH, HEADS, HIDDEN, dropout=0.5)
    x = sequences().float()
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_dropout_reaches_attention_weights_hidden_layer_and_both_branches(monkeypatch):
    rates = []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, dropout_p, **k: (rates.append(dropout_p), real(*a, **k))[1]
    )
    monkeypatch.setattr(F, "dropout", lambda x, p, training: (rates.append(p if training else 0.0), x)[1])
    block = PreLNBlock(WIDTH, HEADS, HIDDEN, dropout=0.25)
    block(sequences().float())
    assert rates == [0.25] * 4
    rates.clear()
    block.eval()(sequences().float())
    assert rates == [0.0] * 4


def test_starts_like_torchs_layer():
    # The same distribution: Xavier per projection, uniform by fan-in elsewhere, zero attention biases.
    torch.manual_seed(0)
    block, layer = PreLNBlock(256, 4, 512), nn.TransformerEncoderLayer(256, 4, 512)
    own = {
        "in": block.self_attn.in_proj.weight,
        "out": block.self_attn.out_proj.weight,
        "l1": block.linear1.weight,
        "l2": block.linear2.weight,
    }
    torchs = {
        "out": layer.self_attn.out_proj.weight,
        "l1": layer.linear1.weight,
        "l2": layer.linear2.weight,
    }
    for name, weight in torchs.items():
        assert own[name].std().item() == pytest.approx(weight.std().item(), rel=0.03), name
    assert own["in"].std().item() == pytest.approx(math.sqrt(2 / (256 + 256)), rel=0.03)
    assert not block.self_attn.in_proj.bias.any() and not block.self_attn.out_proj.bias.any()


@pytest.mark.parametrize("kind", BLOCKS)
def test_gradcheck(kind):
    block, _ = pair(kind, activation=F.gelu)
    x = sequences(2, 3).requires_grad_()
    mask = padding(2, 3)
    assert torch.autograd.gradcheck(lambda x: block(x, mask, is_causal=True), (x,))


@pytest.mark.parametrize("kind", BLOCKS)
def test_compiles(kind):
    block, _ = pair(kind)
    x, mask = sequences(), padding()
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, mask, is_causal=True), block(x, mask, is_causal=True))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((10, 3), {}, ValueError, "nhead must divide d_model, got d_model=10 and nhead=3"),
        ((0, 1), {}, ValueError, "d_model must be >= 1"),
        ((8, 2.0), {}, TypeError, "nhead must be a Python int"),
        ((8, 2, 0), {}, ValueError, "dim_feedforward must be >= 1"),
        ((8, 2), {"dropout": 1.5}, ValueError, r"dropout must be in \[0, 1\]"),
        ((8, 2), {"layer_norm_eps": 0.0}, ValueError, "layer_norm_eps must be > 0"),
        ((8, 2), {"activation": "relu"}, TypeError, "activation must be callable"),
    ],
)
@pytest.mark.parametrize("kind", BLOCKS)
def test_wrong_constructor_arguments_are_named(kind, arguments, options, error, message):
    with pytest.raises(error, match=message):
        BLOCKS[kind](*arguments, **options)


@pytest.mark.parametrize(
    ("x", "mask", "error", "message"),
    [
        (torch.zeros(2, 3, 7), None, ValueError, r"src must have shape \(B, T, 8\), got \(2, 3, 7\)"),
        (torch.zeros(3, 8), None, ValueError, r"src must have shape \(B, T, 8\)"),
        (torch.zeros(2, 3, 8, dtype=torch.long), None, TypeError, "src must have a real floating dtype"),
        (torch.zeros(2, 3, 8), torch.zeros(2, 3), TypeError, "must be a bool tensor, True at padding, got torch.float"),
        (torch.zeros(2, 3, 8), [[True]], TypeError, "must be a bool tensor, True at padding, got list"),
        (torch.zeros(2, 3, 8), torch.zeros(3, 2).bool(), ValueError, r"must have shape \(2, 3\)"),
    ],
)
def test_wrong_inputs_are_named(x, mask, error, message):
    with pytest.raises(error, match=message):
        SelfAttention(8, 2)(x, mask)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", BLOCKS)
def test_same_on_cuda_without_host_reads(kind):
    block, _ = pair(kind)
    x, mask = sequences(), padding()
    expected = block(x, mask, is_causal=True)
    block, x, mask = block.cuda(), x.cuda(), mask.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = block(x, mask, is_causal=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(got.cpu()[~mask.cpu()], expected[~mask.cpu()])
