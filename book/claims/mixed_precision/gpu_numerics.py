"""What autocast, TF32 and small batches do to numbers, measured on a GPU."""

import torch
from sklearn.datasets import load_digits

from book.claims.claim import CONDITIONAL, FAILS, HOLDS, LONGEST_LIST, Claim, Values, Verdict
from book.claims.mixed_precision.precisions import BF16, FP16, FP32, Precision
from book.claims.on_device import float32_products, random_tensor, ratio, seconds_of_each
from book.claims.wording import median, number, percent
from steepest.mixed_precision import DynamicLossScaler, autocast_report, train_step_amp

# Operators of the dispatcher; the names of some depend on the device.
WATCHED = {
    "convolution": ("convolution", "cudnn_convolution"),
    "matrix product": ("addmm", "mm"),
    "batch norm": ("native_batch_norm", "cudnn_batch_norm", "_batch_norm_with_update"),
    "layer norm": ("native_layer_norm",),
    "softmax": ("_softmax",),
    "loss": ("nll_loss_forward", "nll_loss2d_forward"),
}


class Everything(torch.nn.Module):
    """One operator of each kind that autocast's lists name: convolution, products, normalizations, softmax, losses."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 8, 3)
        self.batch_norm = torch.nn.BatchNorm2d(8)
        self.linear = torch.nn.Linear(8 * 36, 10)
        # Each of these gets what the linear layer made, so that none finds the dtype that another one chose.
        self.layer_norm = torch.nn.LayerNorm(10)
        self.softmax = torch.nn.Softmax(-1)
        self.cross_entropy = torch.nn.CrossEntropyLoss()

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The loss, the probabilities and the normalized scores."""
        scores = self.linear(self.batch_norm(self.convolution(images)).relu().flatten(1))
        return self.cross_entropy(scores, labels), self.softmax(scores), self.layer_norm(scores)


def observe_autocast(device: str, dtype: torch.dtype, seed: int) -> Values:
    """The dtype in which each watched operator ran, read off its result, and all operators with theirs.

    The result tells, because the kernel of softmax can read 16 bits and compute and return FP32.
    """
    torch.manual_seed(seed)
    model = Everything().to(device)
    images = random_tensor(4, 1, 8, 8, device=device, seed=seed)
    labels = torch.arange(4, device=device)
    rows = autocast_report(model, images, labels, dtype=dtype)
    seen = set()
    kinds = {}
    for row in rows:
        operator = row.operator.removeprefix("aten.")
        taken = ", ".join(dict.fromkeys(short(one) for one in row.input_dtypes))
        seen.add(f"{operator}: {taken} to {short(row.output_dtype)}")
        for kind, names in WATCHED.items():
            if operator in names:
                kinds[f"dtype of {kind}"] = short(row.output_dtype)
    if len(kinds) < len(WATCHED):
        raise RuntimeError(f"of {', '.join(WATCHED)} some ran under unknown names: {'; '.join(sorted(seen))}")
    return {"autocast to": short(dtype), **kinds, "operators": sorted(seen)[:LONGEST_LIST]}


def short(dtype: torch.dtype | None) -> str:
    """A dtype without the library's name."""
    return str(dtype).removeprefix("torch.")


def judge_products(values: Values) -> Verdict:
    """Holds if convolutions and matrix products run in the lower dtype, conditional if one of them does."""
    lower = values["autocast to"]
    found = [values[f"dtype of {kind}"] for kind in ("convolution", "matrix product")]
    sentence = f"Under autocast to {lower}, a convolution runs in {found[0]}, a matrix product in {found[1]}."
    return Verdict({2: HOLDS, 1: CONDITIONAL, 0: FAILS}[found.count(lower)], sentence)


def judge_float32(values: Values) -> Verdict:
    """Holds if loss, softmax and batch norm run in FP32, conditional if some of them do."""
    kinds = ("loss", "softmax", "batch norm", "layer norm")
    found = {kind: values[f"dtype of {kind}"] for kind in kinds}
    sentence = (
        f"Under autocast to {values['autocast to']}, the loss runs in {found['loss']}, softmax in {found['softmax']}, "
        f"batch norm in {found['batch norm']} and layer norm in {found['layer norm']}."
    )
    wide = [found[kind] for kind in kinds[:3]].count("float32")
    return Verdict(HOLDS if wide == 3 else CONDITIONAL if wide else FAILS, sentence)


def measure_autocast(seed: int) -> Values:
    """Autocast's default on a GPU."""
    return observe_autocast("cuda", torch.float16, seed)


def measure_tf32_error(seed: int) -> Values:
    """Products of large matrices."""
    return tf32_error("cuda", 4096, 10, seed)


def tf32_error(device: str, size: int, rounds: int, seed: int) -> Values:
    """The relative error of a matrix product with precision 'highest' and 'high', against FP64, and the time."""
    a, b = (random_tensor(size, size, device=device, seed=seed + i) for i in range(2))
    exact = a.double() @ b.double()

    def multiply(precision: str) -> torch.Tensor:
        with float32_products(precision):
            return a @ b

    times = seconds_of_each({name: lambda name=name: multiply(name) for name in ("highest", "high")}, device, rounds)
    errors = {name: ((multiply(name).double() - exact).norm() / exact.norm()).item() for name in ("highest", "high")}
    return {
        "matrix size": size,
        "relative error, highest": errors["highest"],
        "relative error, high": errors["high"],
        "time of highest over high": ratio(times, "highest", "high"),
    }


def judge_tf32_error(values: Values) -> Verdict:
    """Holds if 'high' makes the error smaller, conditional if it changes nothing."""
    full, high = values["relative error, highest"], values["relative error, high"]
    faster = values["time of highest over high"]
    sentence = (
        f"For a product of FP32 matrices of {values['matrix size']:,} rows, 'high' has a relative error of "
        f"{number(high)} against {number(full)} with 'highest', the default, and is {number(faster)} times as fast: it "
        "trades precision for speed."
    )
    return Verdict(HOLDS if high < full else CONDITIONAL if high == full else FAILS, sentence)


def error_on_digits(precision: Precision, batch: int, epochs: int, device: str, seed: int) -> float:
    """The share of test digits that a network with batch norm gets wrong."""
    torch.manual_seed(seed)
    digits = load_digits()
    images = (torch.tensor(digits.images, dtype=torch.float32) / 16).unsqueeze(1).to(device)
    labels = torch.tensor(digits.target).to(device)
    held_out = torch.arange(len(labels), device=device) % 5 == 0
    train, test = (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, bias=False),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 16, 3, bias=False),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 16, 10),
    ).to(device)
    # The linear scaling rule: the same expected movement in an epoch for all batch sizes.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * batch / 32, momentum=0.9)
    scaler = DynamicLossScaler() if precision.dtype == torch.float16 else None
    loss = torch.nn.functional.cross_entropy
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = train[torch.randperm(len(train), generator=generator).to(device)]
        # A last batch of another size would have other statistics.
        for rows in order[: len(order) // batch * batch].split(batch):
            pair = (images[rows], labels[rows])
            train_step_amp(model, loss, [pair], optimizer, scaler, dtype=precision.dtype, skip_nonfinite=False)
    model.eval()
    with torch.no_grad(), torch.autocast(device, dtype=precision.dtype, enabled=precision.dtype != torch.float32):
        return (model(images[test]).argmax(1) != labels[test]).float().mean().item()


def compare_batches(device: str, batches: list[int], seeds: int, epochs: int, seed: int) -> Values:
    """The median test error by batch size and precision."""
    precisions = (FP32, FP16, BF16) if device == "cuda" else (FP32, BF16)
    errors = {
        f"test error in {precision.name}": [
            median([error_on_digits(precision, batch, epochs, device, seed + i) for i in range(seeds)])
            for batch in batches
        ]
        for precision in precisions
    }
    return {"batch sizes": batches, "runs of each": seeds, **errors}


def measure_batches(seed: int) -> Values:
    """Batches of 2, 8 and 32 on handwritten digits."""
    return compare_batches("cuda", [2, 8, 32], 3, 2, seed)


def judge_batches(values: Values) -> Verdict:
    """Holds if at the smallest batch precision does most of the harm, conditional if the small batch itself does."""
    errors = {name.removeprefix("test error in "): found for name, found in values.items() if "error" in name}
    by_batch = errors["FP32"][0] - errors["FP32"][-1]
    by_precision = max(found[0] for found in errors.values()) - errors["FP32"][0]
    sentence = (
        f"A network with batch norm on digits errs on {percent(errors['FP32'][-1])} of the test images after batches "
        f"of {values['batch sizes'][-1]} and on {percent(errors['FP32'][0])} after batches of "
        f"{values['batch sizes'][0]}, all in FP32. At the small batch the lower precisions give "
        + ", ".join(f"{percent(found[0])} ({name})" for name, found in errors.items() if name != "FP32")
        + "."
    )
    kind = HOLDS if by_precision > max(by_batch, 0.01) else CONDITIONAL if by_batch > 0.01 else FAILS
    return Verdict(kind, sentence)


CLAIMS = (
    Claim(
        "mixed_precision.4.4",
        measure_autocast,
        judge_products,
        (
            {"autocast to": "float16", "dtype of convolution": "float16", "dtype of matrix product": "float16"},
            {"autocast to": "float16", "dtype of convolution": "float32", "dtype of matrix product": "float32"},
        ),
        device="cuda",
        small=lambda seed: observe_autocast("cpu", torch.bfloat16, seed),
    ),
    Claim(
        "mixed_precision.4.5",
        measure_autocast,
        judge_float32,
        (
            {"dtype of loss": "float32", "dtype of softmax": "float32", "dtype of batch norm": "float32"},
            {"dtype of loss": "float32", "dtype of softmax": "float32", "dtype of batch norm": "float16"},
            {"dtype of loss": "float16", "dtype of softmax": "float16", "dtype of batch norm": "float16"},
        ),
        device="cuda",
        small=lambda seed: observe_autocast("cpu", torch.bfloat16, seed),
    ),
    Claim(
        "mixed_precision.5.4",
        measure_batches,
        judge_batches,
        (
            {"test error in FP32": [0.05, 0.04, 0.03], "test error in BF16": [0.5, 0.04, 0.03]},
            {"test error in FP32": [0.30, 0.04, 0.03], "test error in BF16": [0.3, 0.04, 0.03]},
            {"test error in FP32": [0.03, 0.03, 0.03], "test error in BF16": [0.03, 0.04, 0.03]},
        ),
        device="cuda",
        cost="heavy",
        small=lambda seed: compare_batches("cpu", [8, 64], 1, 1, seed),
    ),
    Claim(
        "mixed_precision.5.7",
        measure_tf32_error,
        judge_tf32_error,
        (
            {"relative error, highest": 1e-7, "relative error, high": 3e-4},
            {"relative error, highest": 1e-7, "relative error, high": 1e-8},
        ),
        device="cuda",
        small=lambda seed: tf32_error("cpu", 32, 1, seed),
    ),
)
