"""Mixup, CutMix and Cutout against loops over images as in the papers' code, and by their invariants."""

import math

import numpy
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.regularization import cutmix, cutout, mixup
from steepest.regularization.mixing import symmetric_beta
from tests.host_reads import host_reads

CPU = torch.device("cpu")


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def box_of_the_paper(height, width, lam, row, column):
    """rand_bbox of the code of Yun et al., for a given centre, with rows first."""
    cut_height = int(height * math.sqrt(1 - lam))
    cut_width = int(width * math.sqrt(1 - lam))
    top, bottom = numpy.clip([row - cut_height // 2, row + cut_height // 2], 0, height)
    left, right = numpy.clip([column - cut_width // 2, column + cut_width // 2], 0, width)
    return top, bottom, left, right


def one_hot(classes, num_classes):
    return torch.eye(num_classes, dtype=torch.float64)[classes]


batches = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 6),
        "height": st.integers(1, 9),
        "width": st.integers(1, 9),
        "lam": st.floats(0, 1),
        "seed": st.integers(0, 2**31),
    }
)


@pytest.mark.parametrize(
    "method",
    [
        lambda x: mixup(x, torch.eye(len(x)), generator=seeded()).inputs,
        lambda x: cutmix(x, torch.eye(len(x)), lam=0.5, generator=seeded()).inputs,
        lambda x: cutout(x, 3, generator=seeded()),
    ],
)
def test_the_memory_format_is_kept(method):
    x = torch.randn(4, 3, 6, 5, generator=seeded())
    last = method(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, method(x))
    assert method(x).is_contiguous()


@pytest.mark.parametrize("method", [mixup, cutmix])
def test_random_batches_keep_the_invariants(method):
    # Image i is i everywhere and of class i, so that pixels and targets tell what was mixed with what.
    count = 7
    x = torch.arange(1.0, count + 1).reshape(count, 1, 1, 1).expand(count, 2, 8, 9)
    moved = 0
    for seed in range(40):
        mixed = method(x, torch.arange(count), num_classes=count, generator=seeded(seed))
        torch.testing.assert_close(mixed.target.sum(1), torch.ones(count))
        assert 0 <= mixed.lam <= 1
        own, partners = mixed.target.diagonal(), mixed.target - torch.diag(mixed.target.diagonal())
        moved += int((own < 1).sum())
        fixed = own.isclose(torch.tensor(1.0))
        assert fixed.logical_or(own.isclose(mixed.lam)).all()
        # Each image is the partner of one other.
        assert ((partners > 1e-6).sum(0) <= 1).all() and ((partners > 1e-6).sum(1) <= 1).all()
        # The mean of an image's pixels is the mean of the classes' values under its target.
        torch.testing.assert_close(mixed.inputs.mean((1, 2, 3)), mixed.target @ torch.arange(1.0, count + 1))
        if method is cutmix:
            changed = (mixed.inputs != x).double().mean((1, 2, 3))
            torch.testing.assert_close(changed[~fixed].float(), (1 - mixed.lam).expand(int((~fixed).sum())))
        again = method(x, torch.arange(count), num_classes=count, generator=seeded(seed))
        assert all(torch.equal(a, b) for a, b in zip(mixed, again, strict=True))
    assert moved > 30


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 3.0])
def test_lambda_has_the_beta_distribution(alpha):
    generator = seeded()
    draws = torch.stack([symmetric_beta(alpha, CPU, generator) for _ in range(4000)])
    law = scipy.stats.beta(alpha, alpha)
    # Near 0 and 1 float64 itself is coarse for α = 0.1: compare within that.
    inner = draws[(draws > 1e-6) & (draws < 1 - 1e-6)].numpy()
    low, high = law.cdf(1e-6), law.sf(1e-6)
    assert scipy.stats.kstest(inner, lambda value: (law.cdf(value) - low) / (high - low)).pvalue > 1e-3
    assert scipy.stats.binomtest(len(inner), 4000, high - low).pvalue > 1e-3
    assert scipy.stats.binomtest(int((draws < 0.5).sum()), 4000).pvalue > 1e-3
    # Mean 1/2 and variance 1 / (4 (2α + 1)), within 5 standard errors.
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(draws.mean() - 0.5) < 5 * math.sqrt(variance / 4000)
    fourth = float(law.moment(4) - 4 * law.moment(3) / 2 + 6 * law.moment(2) / 4 - 4 * 0.5 / 8 + 1 / 16)
    assert abs((draws - 0.5).square().mean() - variance) < 5 * math.sqrt((fourth - variance**2) / 4000)
    assert draws.dtype == torch.float64 and draws.min() >= 0 and draws.max() <= 1


@pytest.mark.parametrize("alpha", [1e-3, 1e3])
def test_extreme_alphas_stay_within_the_interval(alpha):
    generator = seeded()
    draws = torch.stack([symmetric_beta(alpha, CPU, generator) for _ in range(500)])
    assert draws.isfinite().all() and draws.min() >= 0 and draws.max() <= 1
    assert ((draws - 0.5).abs() < 0.1).all() if alpha > 1 else ((draws - 0.5).abs() > 0.4).double().mean() > 0.95


@pytest.mark.parametrize("method", [mixup, cutmix])
def test_the_drawn_lambda_depends_on_alpha(method):
    x, classes = torch.zeros(2, 1, 64, 64), torch.tensor([0, 1])
    options = {"center": (32, 32)} if method is cutmix else {}
    for alpha, inner in ((0.05, 0.2), (50.0, 0.95)):
        lams = [method(x, classes, alpha, 2, generator=seeded(seed), **options).lam.item() for seed in range(60)]
        share = sum(0.2 < lam < 0.9 for lam in lams) / 60
        assert share < inner if alpha < 1 else share > inner


def test_extreme_lambdas_return_the_sample_or_its_partner():
    x, target = torch.randn(3, 2, 4, 4), torch.eye(3)
    partner = torch.tensor([1, 2, 0])
    for method in (mixup, cutmix):
        own = method(x, target, lam=1.0, permutation=partner)
        assert torch.equal(own.inputs, x) and torch.equal(own.target, target) and own.lam == 1
    other = mixup(x, target, lam=0.0, permutation=partner)
    assert torch.equal(other.inputs, x[partner]) and torch.equal(other.target, target[partner])
    whole = cutmix(x, target, lam=0.0, permutation=partner, center=(2, 2))
    assert torch.equal(whole.inputs, x[partner]) and torch.equal(whole.target, target[partner]) and whole.lam == 0


def test_cross_entropy_is_linear_in_the_mixed_target():
    logits = torch.randn(5, 4, dtype=torch.float64, generator=seeded())
    classes, permutation = torch.tensor([0, 3, 1, 1, 2]), torch.tensor([4, 0, 3, 1, 2])
    target = mixup(logits, classes, num_classes=4, lam=0.3, permutation=permutation).target
    cross_entropy = torch.nn.functional.cross_entropy
    expected = 0.3 * cross_entropy(logits, classes) + 0.7 * cross_entropy(logits, classes[permutation])
    torch.testing.assert_close(cross_entropy(logits, target), expected)


@pytest.mark.parametrize("method", [mixup, cutmix])
def test_soft_targets_are_mixed_in_their_dtype_and_low_precision_images_get_float32(method):
    x = torch.rand(2, 1, 4, 4).to(torch.bfloat16)
    swap = torch.tensor([1, 0])
    soft = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64)
    mixed = method(x, soft, lam=0.75, permutation=swap)
    torch.testing.assert_close(mixed.target, mixed.lam * soft + (1 - mixed.lam) * soft[swap], rtol=0, atol=1e-15)
    assert mixed.inputs.dtype == torch.bfloat16 and mixed.lam.dtype == torch.float64
    hard = method(x, torch.tensor([0, 1], dtype=torch.int32), num_classes=2, lam=0.7, permutation=swap)
    assert hard.target.dtype == hard.lam.dtype == torch.float32
    own_and_partner = torch.stack([hard.lam, 1 - hard.lam])
    torch.testing.assert_close(hard.target, torch.stack([own_and_partner, own_and_partner.flip(0)]), rtol=0, atol=1e-7)
    if method is mixup:
        # λ is one that bfloat16 holds, for inputs and targets alike.
        assert hard.lam == torch.tensor(0.7).bfloat16()


@pytest.mark.parametrize("method", [mixup, cutmix])
def test_gradients_reach_both_partners(method):
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    options = {"lam": 0.6, "permutation": torch.tensor([1, 2, 0])}
    if method is cutmix:
        options["center"] = (1, 2)
    assert torch.autograd.gradcheck(lambda x: method(x, torch.eye(3), **options).inputs, x)


def test_cutmix_centres_are_uniform_over_the_pixels():
    # λ = 0.75 makes a box of 2 × 2 on 4 × 4: its rows tell the row of the centre, and its columns the column.
    x = torch.tensor([0.0, 1.0]).reshape(2, 1, 1).expand(2, 4, 4)
    generator, counts, rounds = seeded(), torch.zeros(4, 4), 3200
    swap = torch.tensor([1, 0])
    for _ in range(rounds):
        changed = cutmix(x, torch.eye(2), lam=0.75, permutation=swap, generator=generator).inputs[0].nonzero()
        counts[tuple(changed.amax(0))] += 1
    assert scipy.stats.chisquare(counts.flatten().numpy()).pvalue > 1e-3


def test_cutout_centres_are_uniform_over_the_pixels_and_differ_between_images():
    count = 12_000
    holes = cutout(torch.ones(count, 3, 4), 1, generator=seeded()) == 0
    assert (holes.sum((1, 2)) == 1).all()
    assert scipy.stats.chisquare(holes.sum(0).flatten().numpy()).pvalue > 1e-3
    # A square of 2 × 2 around each of the 12 pixels leaves the image where the pixel is in row or column 0.
    sizes = (cutout(torch.ones(count, 3, 4), 2, generator=seeded(1)) == 0).sum((1, 2))
    observed = [int((sizes == size).sum()) for size in (1, 2, 4)]
    assert sum(observed) == count
    assert scipy.stats.chisquare(observed, [count / 12, count * 5 / 12, count * 6 / 12]).pvalue > 1e-3


def test_cutout_keeps_dtype_and_passes_gradients_to_the_rest():
    images = torch.full((2, 5, 5), 200, dtype=torch.uint8)
    assert cutout(images, 3).dtype == torch.uint8 and int((cutout(images, 3) == 0).sum()) >= 8
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: cutout(x, 2, center=torch.tensor([[0, 0], [2, 1]])), x)
    assert cutout(torch.ones(0, 3, 4, 4), 2).shape == (0, 3, 4, 4)


def test_nothing_is_read_by_the_host_unless_asked():
    x, classes = torch.rand(4, 2, 5, 6), torch.tensor([0, 1, 2, 1])
    lam, center = torch.tensor(0.4), torch.tensor([1, 2])
    with host_reads() as reads:
        for method in (mixup, cutmix):
            method(x, classes, num_classes=3)
            method(x, torch.eye(4), lam=lam, permutation=torch.arange(4))
        cutmix(x, classes, num_classes=3, center=center)
        cutout(x, 2)
    assert reads == []
    with host_reads() as reads:
        mixup(x, classes, num_classes=3, check=True)
    assert reads


def test_compile_to_one_graph():
    x, classes = torch.rand(4, 2, 5, 6), torch.tensor([0, 1, 2, 1])

    def augment(x, classes):
        mixed = mixup(x, classes, num_classes=3)
        return cutout(cutmix(mixed.inputs, mixed.target).inputs, 2), mixed.target

    inputs, target = torch.compile(augment, backend="eager", fullgraph=True)(x, classes)
    assert inputs.shape == x.shape and torch.allclose(target.sum(1), torch.ones(4))


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_and_given_randomness_gives_the_cpus_result():
    x, classes = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 1, 0, 2])
    options = {"num_classes": 3, "lam": 0.4}
    permutation = torch.tensor([1, 2, 3, 4, 5, 0])
    on_gpu, labels, partners = x.cuda(), classes.cuda(), permutation.cuda()
    generator = seeded(device="cuda")

    def run():
        mixup(on_gpu, labels, num_classes=3, generator=generator)
        cutmix(on_gpu, labels, num_classes=3, generator=generator)
        cutout(on_gpu, 3, generator=generator)
        return [
            mixup(on_gpu, labels, permutation=partners, **options),
            cutmix(on_gpu, labels, permutation=partners, center=(2, 3), **options),
        ]

    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = [
        mixup(x, classes, permutation=permutation, **options),
        cutmix(x, classes, permutation=permutation, center=(2, 3), **options),
    ]
    for result, other in zip(results, expected, strict=True):
        for actual, wanted in zip(result, other, strict=True):
            assert actual.device == on_gpu.device
            torch.testing.assert_close(actual.cpu(), wanted)


X = torch.rand(3, 1, 4, 4)
CLASSES = torch.tensor([0, 1, 2])
WRONG = [
    ({"x": [1.0]}, TypeError, "x must be a torch.Tensor"),
    ({"x": torch.ones(3, 1, 4, 4, dtype=torch.uint8)}, TypeError, "x must have a real floating dtype"),
    ({"x": torch.tensor(1.0)}, ValueError, "x must have a batch dimension"),
    ({"x": torch.rand(2, 1, 4, 4)}, ValueError, "target has 3 samples but x has 2"),
    ({"x": torch.rand(3, 1, 4, 4, device="meta")}, ValueError, "target is on cpu but x is on meta"),
    ({"target": [0, 1, 2]}, TypeError, "target must be a torch.Tensor"),
    ({"target": torch.tensor([True, False, True])}, TypeError, "target must hold integer classes"),
    ({"target": CLASSES[:, None]}, ValueError, r"target of classes must have shape \(B,\)"),
    ({"target": torch.rand(3)}, ValueError, r"target of probabilities must have shape \(B, 3\)"),
    ({"target": torch.rand(3, 4)}, ValueError, r"target of probabilities must have shape \(B, 3\)"),
    ({"target": torch.rand(3, 0), "num_classes": None}, ValueError, r"must have shape \(B, K\), K >= 1, got \(3, 0\)"),
    ({"num_classes": None}, ValueError, "num_classes must be given"),
    ({"num_classes": 0}, ValueError, "num_classes must be >= 1"),
    ({"num_classes": 2, "check": True}, ValueError, r"target must lie in \[0, 2\)"),
    ({"target": torch.rand(3, 3), "check": True}, ValueError, "target must hold rows >= 0 that sum to 1"),
    ({"target": torch.eye(3) * 2 - 1 / 3, "check": True}, ValueError, "target must hold rows >= 0"),
    ({"alpha": 0}, ValueError, "alpha must be > 0"),
    ({"alpha": math.inf}, ValueError, "alpha must be finite"),
    ({"lam": 1.1}, ValueError, "lam must be in"),
    ({"lam": torch.rand(3)}, ValueError, "lam must have one element"),
    ({"lam": torch.tensor(1)}, TypeError, "lam must have a real floating dtype"),
    ({"lam": torch.tensor(1.1), "check": True}, ValueError, r"lam must be in \[0, 1\], got 1\.1"),
    ({"lam": torch.tensor(math.nan), "check": True}, ValueError, r"lam must be in \[0, 1\], got nan"),
    ({"permutation": torch.tensor([0, 1, 3]), "check": True}, ValueError, r"permutation must lie in \[0, 3\)"),
    ({"permutation": torch.tensor([0, 1, -1]), "check": True}, ValueError, r"permutation must lie in \[0, 3\)"),
    ({"permutation": [0, 1, 2]}, TypeError, "permutation must be a torch.Tensor"),
    ({"permutation": torch.arange(2)}, ValueError, "permutation must be int64 of shape"),
    ({"permutation": torch.arange(3.0)}, ValueError, "permutation must be int64 of shape"),
    ({"permutation": torch.arange(3, device="meta")}, ValueError, "permutation is on meta but x is on cpu"),
    ({"generator": 0}, TypeError, "generator must be a torch.Generator"),
]
WRONG_FOR_CUTMIX = [
    ({"x": torch.rand(3, 16)}, ValueError, "x must be images"),
    ({"x": torch.rand(3, 1, 4, 0)}, ValueError, "x must be images"),
    ({"center": (1, 4)}, ValueError, "column of center must be < 4"),
    ({"center": (-1, 2)}, ValueError, "row of center must be >= 0"),
    ({"center": (1.5, 2)}, TypeError, "row of center must be a Python int"),
    ({"center": 3}, TypeError, "center must be a pair of ints"),
    ({"center": torch.tensor([1, 4]), "check": True}, ValueError, "center must lie in the image of 4 x 4 pixels"),
    ({"center": torch.tensor([-1, 1]), "check": True}, ValueError, "center must lie in the image of 4 x 4 pixels"),
    ({"center": torch.tensor([1, 2, 3])}, ValueError, "center must be an int64 tensor"),
]


@pytest.mark.parametrize(
    ("method", "change", "error", "message"),
    [(method, *case) for method in (mixup, cutmix) for case in WRONG] + [(cutmix, *case) for case in WRONG_FOR_CUTMIX],
)
def test_wrong_arguments_are_named(method, change, error, message):
    arguments = {"x": X, "target": CLASSES, "num_classes": 3, **change}
    with pytest.raises(error, match=message):
        method(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x must be a torch.Tensor"),
        ({"x": torch.rand(4, 4)}, ValueError, "x must be images"),
        ({"length": -1}, ValueError, "length must be >= 0"),
        ({"length": 2.0}, TypeError, "length must be a Python int"),
        ({"center": (1, 1)}, TypeError, "center must be a torch.Tensor"),
        ({"center": torch.tensor([1, 1])}, ValueError, r"center must be int64 of shape \(3, 2\)"),
        ({"center": torch.ones(3, 2)}, ValueError, r"center must be int64 of shape \(3, 2\)"),
        ({"generator": 0}, TypeError, "generator must be a torch.Generator"),
    ],
)
def test_wrong_arguments_of_cutout_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        cutout(**{"x": X, "length": 2, **arguments})


def test_checked_targets_that_are_right_pass():
    soft = torch.softmax(torch.randn(3, 5, generator=seeded()), 1)
    assert mixup(X, soft, check=True).target.shape == (3, 5)
    assert mixup(X, soft.bfloat16(), check=True).target.dtype == torch.bfloat16
    assert cutmix(X, CLASSES, num_classes=3, check=True).target.shape == (3, 3)
    given = {"lam": torch.tensor(0.0), "permutation": torch.tensor([2, 2, 0]), "check": True}
    assert mixup(X, soft, **given).lam == 0
    assert cutmix(X, soft, center=torch.tensor([0, 3]), **given).lam == 0.625


# Properties come last: where something is wrong, shrinking their examples takes longest.
@given(case=batches, as_tensor=st.booleans(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_mixup_is_the_papers_sum_for_each_pair(case, as_tensor, dtype):
    generator = seeded(case["seed"])
    x = torch.randn(case["batch"], 3, case["height"], dtype=dtype, generator=generator)
    classes = torch.randint(4, (case["batch"],), generator=generator)
    permutation = torch.randperm(case["batch"], generator=generator)
    lam = torch.tensor(case["lam"], dtype=torch.float64) if as_tensor else case["lam"]
    before = x.clone(), classes.clone()
    mixed = mixup(x, classes, num_classes=4, lam=lam, permutation=permutation)
    tolerance = 8 * torch.finfo(dtype).eps
    for i, j in enumerate(permutation.tolist()):
        inputs = case["lam"] * x[i] + (1 - case["lam"]) * x[j]
        target = case["lam"] * one_hot(classes[i], 4) + (1 - case["lam"]) * one_hot(classes[j], 4)
        torch.testing.assert_close(mixed.inputs[i], inputs, rtol=tolerance, atol=8 * tolerance)
        torch.testing.assert_close(mixed.target[i].double(), target, rtol=0, atol=tolerance)
    assert mixed.inputs.dtype == mixed.target.dtype == mixed.lam.dtype == dtype
    assert abs(mixed.lam.item() - case["lam"]) <= torch.finfo(dtype).eps
    assert torch.equal(x, before[0]) and torch.equal(classes, before[1])


@given(case=batches, centre=st.tuples(st.floats(0, 1), st.floats(0, 1)), as_tensor=st.booleans())
def test_cutmix_pastes_the_box_of_the_papers_code(case, centre, as_tensor):
    height, width = case["height"], case["width"]
    generator = seeded(case["seed"])
    x = torch.randn(case["batch"], 2, height, width, generator=generator)
    classes = torch.randint(3, (case["batch"],), generator=generator)
    permutation = torch.randperm(case["batch"], generator=generator)
    row, column = min(int(centre[0] * height), height - 1), min(int(centre[1] * width), width - 1)
    top, bottom, left, right = box_of_the_paper(height, width, case["lam"], row, column)
    expected = x.clone()
    for i, j in enumerate(permutation.tolist()):
        expected[i, :, top:bottom, left:right] = x[j, :, top:bottom, left:right]
    lam = 1 - (bottom - top) * (right - left) / (height * width)

    before = x.clone()
    center = torch.tensor([row, column]) if as_tensor else (row, column)
    mixed = cutmix(x, classes, num_classes=3, lam=case["lam"], permutation=permutation, center=center)
    assert torch.equal(mixed.inputs, expected) and torch.equal(x, before)
    assert mixed.lam.item() == pytest.approx(lam, abs=1e-7)
    target = lam * one_hot(classes, 3) + (1 - lam) * one_hot(classes[permutation], 3)
    torch.testing.assert_close(mixed.target.double(), target, rtol=0, atol=1e-6)


@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    length=st.integers(0, 9),
    channels=st.sampled_from([(), (1,), (3,), (2, 2)]),
    seed=st.integers(0, 2**31),
)
def test_cutout_is_the_loop_over_pixels(size, length, channels, seed):
    generator = seeded(seed)
    x = 1 + torch.rand(4, *channels, *size, generator=generator)
    center = torch.stack([torch.randint(n, (4,), generator=generator) for n in size], 1)
    expected = x.clone()
    for i in range(4):
        first_row, first_column = (center[i] - length // 2).tolist()
        for row in range(first_row, first_row + length):
            for column in range(first_column, first_column + length):
                if 0 <= row < size[0] and 0 <= column < size[1]:
                    expected[i, ..., row, column] = 0
    before = x.clone()
    assert torch.equal(cutout(x, length, center=center), expected) and torch.equal(x, before)
    drawn = cutout(x, length, generator=generator)
    assert ((drawn == 0) | (drawn == x)).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_the_default_generator_is_torchs(seed):
    x, target = torch.rand(4, 5, 6), torch.eye(4)
    for draw in (lambda **g: mixup(x, target, **g).inputs, lambda **g: cutmix(x, target, **g).inputs):
        torch.manual_seed(seed)
        assert torch.equal(draw(), draw(generator=seeded(seed)))
    torch.manual_seed(seed)
    assert torch.equal(cutout(x, 3), cutout(x, 3, generator=seeded(seed)))
