"""What checkpointing costs on a convolutional network, measured on a GPU."""

from book.claims.checkpointing.gpu_encoder import judge_within, times
from book.claims.checkpointing.gpu_runs import resnet_runs, small_resnet_runs
from book.claims.claim import Claim, Values, Verdict


def measure_time(seed: int) -> Values:
    """The times of a network of the size of ResNet-50."""
    return resnet_runs(seed)


def judge_time(values: Values) -> Verdict:
    """The statement's 15 to 25 percent."""
    return judge_within(values, 0.15, 0.25, "A network of the size of ResNet-50")


CLAIMS = (
    Claim(
        "checkpointing.4.3",
        measure_time,
        judge_time,
        (times(1.16, 1.24), times(1.16, 1.33), times(1.1, 1.4)),
        device="cuda",
        cost="heavy",
        small=small_resnet_runs,
    ),
)
