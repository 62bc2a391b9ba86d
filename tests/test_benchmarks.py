"""The benchmarks, without running their measurements or needing their peers: what they import, and what they share."""

import ast
import doctest
import json
import platform
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from benchmarks import side_by_side
from benchmarks.side_by_side import Table, Target

FOLDER = Path(side_by_side.__file__).parent
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.name != "side_by_side.py")
SHARING = [path for path in SCRIPTS if path.name != "explore.py"]
# Modules whose distribution has another name.
DISTRIBUTIONS = {"curvlinops": "curvlinops-for-pytorch", "torchmin": "pytorch-minimize"}
# What peers import in turn, beyond the environment.
NEEDS = {
    "curvlinops-for-pytorch": {"einconv", "einops", "linear-operator", "tqdm"},
    "gfloat": {"array-api-compat"},
}


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def required(path):
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert all("==" in line for line in lines)
    return {normalized(line.partition("==")[0]) for line in lines}


PEERS = required(FOLDER / "requirements.txt")
ENVIRONMENT = required(FOLDER.parent / "requirements.txt")


def imported(path):
    """The distributions of what a module imports, anywhere in it, that isn't Python's or the project's."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            modules.add(node.module)
    own = {"steepest", *(script.stem for script in FOLDER.glob("*.py"))}
    names = {module.partition(".")[0] for module in modules} - own - sys.stdlib_module_names
    return {normalized(DISTRIBUTIONS.get(name, name)) for name in names}


def test_there_are_scripts():
    assert len(SHARING) >= 9


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_imports_are_required(path):
    assert imported(path) - PEERS - ENVIRONMENT == set()


def test_peers_are_exactly_what_is_imported_and_what_that_needs():
    peers = set().union(*map(imported, SCRIPTS)) - ENVIRONMENT
    assert set().union(peers, *(NEEDS.get(peer, set()) for peer in peers)) == PEERS


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_define_main_and_run_it_only_as_scripts(path):
    tree = ast.parse(path.read_text())
    assert f"Run as ``python benchmarks/{path.name}``" in ast.get_docstring(tree)
    (main,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert not main.args.args
    assert ast.unparse(tree.body[-1]) == "if __name__ == '__main__':\n    main()"


@pytest.mark.parametrize("path", SHARING, ids=lambda path: path.stem)
def test_scripts_report_under_their_name_and_state_targets(path):
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    (report,) = (call for call in calls if call.func.id == "report")
    assert ast.literal_eval(report.args[0]) == path.stem
    assert "Target" in ast.get_docstring(tree)
    assert any(call.func.id == "Target" for call in calls)


def test_readme_lists_every_script():
    text = (FOLDER / "README.md").read_text()
    assert re.findall(r"^\| `(\w+\.py)`", text, re.MULTILINE) == [path.name for path in SHARING] + ["explore.py"]


def test_examples_of_side_by_side():
    results = doctest.testmod(side_by_side)
    assert results.attempted > 5
    assert results.failed == 0


def test_processor_time_on_the_cpu():
    assert side_by_side.clock("cpu") is time.process_time


@pytest.mark.gpu
def test_a_gpu_is_waited_for():
    x = torch.randn(4096, 4096, device="cuda")
    for _ in range(20):
        x = x @ x
    done = torch.cuda.Event()
    done.record()
    side_by_side.clock("cuda")()
    assert done.query()


def test_rotation_puts_each_first_and_keeps_the_circle():
    orders = list(side_by_side.orders(["a", "b", "c"], 6))
    assert [order[0] for order in orders] == ["a", "b", "c", "a", "b", "c"]
    assert all("".join(order) in "abcabc" for order in orders)


def test_shuffled_orders_are_the_same_in_each_process_and_vary_the_predecessor():
    orders = list(side_by_side.orders(["a", "b", "c"], 40, shuffled=True))
    assert orders == list(side_by_side.orders(["a", "b", "c"], 40, shuffled=True))
    assert {"".join(order) for order in orders} == {"abc", "acb", "bac", "bca", "cab", "cba"}


class Bench:
    """Contenders that take a known time by a clock of their own, and a record of who was called."""

    def __init__(self, monkeypatch):
        self.now, self.devices, self.calls = 0.0, [], []
        monkeypatch.setattr(side_by_side, "clock", self.clock)

    def clock(self, device):
        self.devices.append(device)
        return lambda: self.now

    def contender(self, name, seconds):
        def call():
            self.calls.append(name)
            self.now += seconds

        return call

    def prepare(self, turn):
        self.calls.append(turn)
        self.now += 100.0


def test_contenders_take_turns_after_a_warm_up(monkeypatch):
    bench = Bench(monkeypatch)
    contenders = {"a": bench.contender("a", 1.0), "b": bench.contender("b", 2.0)}
    times = side_by_side.interleaved(contenders, 3, "cuda", warm_up=2)
    assert times == {"a": [1.0, 1.0, 1.0], "b": [2.0, 2.0, 2.0]}
    assert "".join(bench.calls) == "aabb" + "ab" + "ba" + "ab"
    assert bench.devices == ["cuda"]


def test_preparation_comes_before_each_call_and_is_not_timed(monkeypatch):
    bench = Bench(monkeypatch)
    contenders = {"a": bench.contender("a", 1.0), "b": bench.contender("b", 2.0)}
    times = side_by_side.interleaved(contenders, 2, "cpu", prepare=bench.prepare)
    assert times == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
    assert bench.calls == [0, "a", 0, "b", 0, "a", 0, "b", 1, "b", 1, "a"]


def test_order_can_be_shuffled(monkeypatch):
    bench = Bench(monkeypatch)
    contenders = {name: bench.contender(name, 1.0) for name in "abc"}
    side_by_side.interleaved(contenders, 40, "cpu", warm_up=0, shuffled=True)
    expected = side_by_side.orders(["a", "b", "c"], 40, shuffled=True)
    assert bench.calls == [name for order in expected for name in order]


def test_the_ratio_is_the_median_of_ratios_not_the_ratio_of_medians():
    # Twice as fast in two rounds of three, whatever the machine does; the medians come from different rounds.
    own, baseline = [1.0, 8.0, 3.0], [2.0, 16.0, 4.0]
    assert side_by_side.median_ratio(own, baseline) == 0.5
    assert side_by_side.median_ratio(baseline, own) == 2.0
    rows = side_by_side.compared({"own": own, "baseline": baseline}, "baseline")
    assert rows["own"] == {"ratio": 0.5, "milliseconds": 3000.0}
    assert rows["baseline"] == {"ratio": 1.0, "milliseconds": 4000.0}


def test_rounds_must_pair_up():
    with pytest.raises(ValueError, match="longer"):
        side_by_side.median_ratio([1.0], [1.0, 2.0])


@pytest.mark.parametrize(("value", "met"), [(0.9, True), (1.0, True), (1.1, False), (float("nan"), False)])
def test_a_target_is_an_upper_limit(value, met):
    target = Target("time", value, 1.0, "because")
    assert target.met is met
    assert str(target).endswith("met" if met else "missed; because")


def example():
    rows = {"ours": {"ratio": 0.123456, "count": 12345}, "theirs": {"ratio": 1.0, "peak_mib": 0.00012345}}
    return Table("a task", "cpu", 1, "theirs", rows, [Target("time", 0.123456, 0.1, "because")])


def test_a_table_is_aligned_and_leaves_blank_what_a_contender_lacks():
    title, head, ours, theirs, verdict = str(example()).split("\n")
    assert title == "a task, cpu (1 round, ratio to theirs)"
    assert head.split() == ["ratio", "count", "peak_mib"]
    assert ours.split() == ["ours", "0.123", "12345"]
    assert theirs.split() == ["theirs", "1.000", "0.0001234"]
    assert len(head) == len(ours) == len(theirs)
    assert verdict.strip() == "time: 0.123, target 0.1: missed; because"


def test_results_are_written_with_versions(tmp_path):
    path = side_by_side.write_results("task", [example()], ["numpy"], tmp_path / "results")
    assert path == tmp_path / "results" / "task.json"
    document = json.loads(path.read_text())
    assert document["benchmark"] == "task"
    assert document["versions"] == {
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
    }
    assert (document["gpu"] is None) is not torch.cuda.is_available()
    (table,) = document["tables"]
    assert table == {
        "title": "a task",
        "device": "cpu",
        "rounds": 1,
        "baseline": "theirs",
        "contenders": example().contenders,
        "targets": [{"what": "time", "value": 0.123456, "target": 0.1, "why": "because", "met": False}],
    }
    # A second run replaces the first.
    assert side_by_side.write_results("task", [], folder=tmp_path / "results") == path
    assert json.loads(path.read_text())["tables"] == []


def test_a_report_measures_on_one_thread_and_prints_each_table_when_it_is_there(monkeypatch, capsys):
    written = []
    monkeypatch.setattr(side_by_side, "write_results", lambda *args: written.append(args))

    def tables():
        assert torch.get_num_threads() == 1
        yield example()
        assert str(example()) in capsys.readouterr().out
        yield example()

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        side_by_side.report("task", tables, ["numpy"])
    finally:
        torch.set_num_threads(threads)
    assert str(example()) in capsys.readouterr().out
    assert written == [("task", [example(), example()], ["numpy"])]
