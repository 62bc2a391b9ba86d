"""The temperature against scipy's minimum and the root of the NLL's slope; the ECE against numpy's histograms."""

import math

import numpy
import pytest
import scipy.optimize
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.regularization import expected_calibration_error, fit_temperature, temperature
from tests.host_reads import host_reads


def problem(seed, count=200, classes=5, overconfidence=3.0):
    """Return logits, and labels drawn from the softmax of logits / overconfidence."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(count, classes, dtype=torch.float64, generator=generator)
    probabilities = torch.softmax(logits / overconfidence, 1)
    return logits, torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def slope(beta, logits, labels):
    """The derivative of the NLL by β = 1 / T, in numpy."""
    z, y = logits.double().numpy(), labels.numpy()
    mean = (scipy.special.softmax(beta * z, axis=1) * z).sum(1)
    return (mean - z[numpy.arange(len(y)), y]).mean()


@pytest.mark.parametrize("seed", range(4))
def test_scipy_finds_the_same_minimum(seed):
    logits, labels = problem(seed)

    def nll(log_temperature):
        return torch.nn.functional.cross_entropy(logits / math.exp(log_temperature), labels).item()

    oracle = scipy.optimize.minimize_scalar(nll, bracket=(-1, 2), options={"xtol": 1e-10})
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(math.exp(oracle.x), rel=1e-6) and 2 < fitted < 4.5
    before = torch.nn.functional.cross_entropy(logits, labels)
    assert torch.nn.functional.cross_entropy(logits / fitted, labels) < before
    assert torch.equal(logits.argmax(1), (logits / fitted).argmax(1))


def test_a_scaled_classifier_gets_the_scaled_temperature():
    logits, labels = problem(7)
    fitted = fit_temperature(logits, labels)
    for factor in (1e-8, 1e-3, 0.5, 1e3, 1e8):
        assert fit_temperature(factor * logits, labels) == pytest.approx(factor * fitted, rel=1e-6)
    # A constant of each row doesn't matter.
    assert fit_temperature(logits + torch.arange(200.0)[:, None], labels) == pytest.approx(fitted, rel=1e-6)


def test_an_underconfident_classifier_gets_a_temperature_below_one():
    logits, labels = problem(3)
    assert fit_temperature(logits / 10, labels) < 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_any_dtype_is_fitted_in_float64_and_nothing_of_the_caller_changes(dtype):
    logits, labels = problem(5)
    low = logits.to(dtype).requires_grad_()
    before = low.detach().clone()
    with torch.inference_mode():
        fitted = fit_temperature(low, labels.to(torch.int32))
    assert fitted == pytest.approx(fit_temperature(low.detach().double(), labels), rel=1e-9)
    assert isinstance(fitted, float) and low.grad is None and torch.equal(low.detach(), before)
    double = logits.clone()
    fit_temperature(double, labels)
    assert torch.equal(double, logits)


def test_data_without_a_minimum_are_named():
    logits, _ = problem(0)
    with pytest.raises(ValueError, match="never rises towards T = 0"):
        fit_temperature(logits, logits.argmax(1))
    with pytest.raises(ValueError, match="never rises towards T = ∞"):
        fit_temperature(logits, logits.argmin(1))
    with pytest.raises(ValueError, match="no temperature minimises"):
        fit_temperature(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="never rises towards T = 0"):
        fit_temperature(torch.rand(3, 1), torch.zeros(3, dtype=torch.int64))


def test_a_fit_that_was_cut_short_is_named(monkeypatch):
    monkeypatch.setattr(temperature, "MAX_ITERATIONS", 1)
    with pytest.raises(RuntimeError, match="has not converged: max_iter"):
        fit_temperature(*problem(1, overconfidence=20))


LOGITS = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
LABELS = torch.tensor([0, 0])


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        ([[1.0]], LABELS, TypeError, "logits must be a torch.Tensor"),
        (torch.ones(2, 2, dtype=torch.int64), LABELS, TypeError, "logits must have a real floating dtype"),
        (LOGITS, [0, 1], TypeError, "labels must be a torch.Tensor"),
        (LOGITS, torch.tensor([0.0, 1.0]), TypeError, "labels must hold integer classes"),
        (LOGITS, torch.tensor([True, False]), TypeError, "labels must hold integer classes"),
        (LOGITS[0], LABELS, ValueError, r"logits must have shape \(N, K\)"),
        (LOGITS[:0], LABELS[:0], ValueError, r"logits must have shape \(N, K\)"),
        (LOGITS, LABELS[:1], ValueError, r"labels must have shape \(2,\)"),
        (LOGITS, LABELS.to("meta"), ValueError, "labels is on meta but logits is on cpu"),
        (LOGITS, torch.tensor([0, 2]), ValueError, r"labels must lie in \[0, 2\)"),
        (LOGITS, torch.tensor([0, -1]), ValueError, r"labels must lie in \[0, 2\)"),
        (LOGITS * math.inf, LABELS, ValueError, "logits must be finite"),
    ],
)
def test_wrong_arguments_of_the_fit_are_named(logits, labels, error, message):
    with pytest.raises(error, match=message):
        fit_temperature(logits, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_bins", [1, 5, 10, 15])
def test_bins_are_closed_on_the_right(n_bins, dtype):
    # Equation: B_m holds ((m - 1) / M, m / M]. One sample on each edge, those of 0 and 1 included.
    confidences = torch.tensor([m / n_bins for m in range(n_bins + 1)], dtype=dtype)
    result = expected_calibration_error(confidences[:, None], torch.zeros(n_bins + 1, dtype=torch.int64), n_bins)
    assert result.counts.tolist() == [2] + [1] * (n_bins - 1)
    torch.testing.assert_close(result.bin_edges, confidences, rtol=0, atol=0)
    torch.testing.assert_close(result.confidence[1:], confidences[2:], rtol=0, atol=0)


def test_calibrated_and_wrong_predictions_have_the_errors_that_they_should():
    sure = torch.eye(4)
    assert expected_calibration_error(sure, torch.arange(4)).ece == 0
    assert expected_calibration_error(sure, torch.tensor([1, 2, 3, 0])).ece == 1
    half = torch.full((4, 2), 0.5)
    assert expected_calibration_error(half, torch.tensor([0, 0, 1, 1])).ece == 0
    # Two bins that err in opposite directions don't cancel.
    mixed = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    torch.testing.assert_close(expected_calibration_error(mixed, torch.tensor([1, 0]), 2).ece, torch.tensor(0.25))
    apart = expected_calibration_error(mixed, torch.tensor([1, 0]), 10)
    torch.testing.assert_close(apart.ece, torch.tensor((0.9 + 0.4) / 2))


def test_temperature_lowers_the_error_of_an_overconfident_classifier():
    logits, labels = problem(11, count=4000)
    fitted = fit_temperature(logits[:2000], labels[:2000])
    held_out, truth = logits[2000:], labels[2000:]
    before = expected_calibration_error(torch.softmax(held_out, 1), truth).ece
    after = expected_calibration_error(torch.softmax(held_out / fitted, 1), truth).ece
    assert after < before / 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_ece_keeps_the_precision_and_reads_nothing(dtype):
    probabilities = torch.softmax(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), 1).to(dtype)
    labels = torch.zeros(50, dtype=torch.int32)
    with host_reads() as reads:
        result = expected_calibration_error(probabilities, labels)
    assert reads == [] and len(result.bin_edges) == 16
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert result.ece.dtype == result.accuracy.dtype == expected and result.counts.dtype == torch.int64
    assert expected_calibration_error(probabilities, labels, check=True).ece == result.ece


@pytest.mark.gpu
def test_on_a_gpu_the_fit_and_the_error_are_the_cpus():
    logits, labels = problem(2)
    assert fit_temperature(logits.cuda(), labels.cuda()) == pytest.approx(fit_temperature(logits, labels), rel=1e-5)
    probabilities, on_gpu = torch.softmax(logits, 1).cuda(), labels.cuda()
    expected_calibration_error(probabilities, on_gpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = expected_calibration_error(probabilities, on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(result.ece.cpu(), expected_calibration_error(probabilities.cpu(), labels).ece)


PROBABILITIES = torch.tensor([[0.5, 0.5], [0.25, 0.75]])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"probabilities": [[1.0]]}, TypeError, "probabilities must be a torch.Tensor"),
        ({"probabilities": torch.ones(2, 2).long()}, TypeError, "probabilities must have a real floating dtype"),
        ({"probabilities": PROBABILITIES[:0]}, ValueError, r"probabilities must have shape \(N, K\)"),
        ({"probabilities": PROBABILITIES[0]}, ValueError, r"probabilities must have shape \(N, K\)"),
        ({"labels": [0, 1]}, TypeError, "labels must be a torch.Tensor"),
        ({"labels": torch.tensor([0.0, 1.0])}, TypeError, "labels must hold integer classes"),
        ({"labels": torch.tensor([0])}, ValueError, r"labels must have shape \(2,\)"),
        ({"labels": LABELS.to("meta")}, ValueError, "labels is on meta"),
        ({"labels": LABELS + 2, "check": True}, ValueError, r"labels must lie in \[0, 2\)"),
        ({"labels": LABELS - 1, "check": True}, ValueError, r"labels must lie in \[0, 2\)"),
        ({"n_bins": 0}, ValueError, "n_bins must be >= 1"),
        ({"n_bins": 5.0}, TypeError, "n_bins must be a Python int"),
        ({"probabilities": LOGITS * 3, "check": True}, ValueError, "probabilities must hold rows >= 0"),
        (
            {"probabilities": LOGITS * math.nan, "check": True},
            ValueError,
            "probabilities must hold rows >= 0 that sum to 1",
        ),
    ],
)
def test_wrong_arguments_of_the_error_are_named(change, error, message):
    with pytest.raises(error, match=message):
        expected_calibration_error(**{"probabilities": PROBABILITIES, "labels": LABELS, **change})


# Properties come last: where something is wrong, shrinking their examples takes longest.
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(20, 300),
    classes=st.integers(2, 8),
    overconfidence=st.floats(1.5, 30.0),
    log_scale=st.floats(-5, 5),
)
def test_the_slope_of_the_nll_is_zero_at_the_temperature(seed, count, classes, overconfidence, log_scale):
    logits, labels = problem(seed, count, classes, overconfidence)
    logits = logits * 10**log_scale
    scale = logits.abs().mean().item()
    if slope(0.0, logits, labels) >= 0 or slope(1e6 / scale, logits, labels) <= 0:
        return
    root = scipy.optimize.brentq(slope, 0, 1e6 / scale, args=(logits, labels), xtol=1e-16 / scale, rtol=1e-14)
    assert fit_temperature(logits, labels) == pytest.approx(1 / root, rel=1e-4)


@given(
    count=st.integers(1, 300),
    classes=st.integers(1, 6),
    n_bins=st.integers(1, 20),
    sharpness=st.floats(0.1, 20),
    seed=st.integers(0, 2**31),
)
def test_ece_is_that_of_numpys_histograms(count, classes, n_bins, sharpness, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(count, classes, dtype=torch.float64, generator=generator)
    probabilities = torch.softmax(logits, 1)
    labels = torch.randint(classes, (count,), generator=generator)
    confidences, predictions = probabilities.max(1)
    confidences, right = confidences.numpy(), (predictions == labels).numpy()
    # numpy's bins are closed on the left; those of -p are closed on the right for p.
    edges = -(numpy.arange(n_bins, -1, -1) / n_bins)
    counts = numpy.histogram(-confidences, edges)[0][::-1]
    sums = numpy.histogram(-confidences, edges, weights=confidences)[0][::-1]
    hits = numpy.histogram(-confidences, edges, weights=right.astype(float))[0][::-1]
    filled = counts > 0
    gaps = numpy.abs(hits[filled] / counts[filled] - sums[filled] / counts[filled])
    ece = (counts[filled] / count * gaps).sum()

    result = expected_calibration_error(probabilities, labels, n_bins)
    assert result.ece.item() == pytest.approx(ece, abs=1e-12) and 0 <= result.ece <= 1
    numpy.testing.assert_array_equal(result.counts.numpy(), counts)
    numpy.testing.assert_allclose(result.accuracy.numpy()[filled], hits[filled] / counts[filled], atol=1e-12)
    numpy.testing.assert_allclose(result.confidence.numpy()[filled], sums[filled] / counts[filled], atol=1e-12)
    assert result.accuracy[~torch.from_numpy(filled.copy())].isnan().all()
    assert result.confidence[~torch.from_numpy(filled.copy())].isnan().all()
