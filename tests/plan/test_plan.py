"""launch/plan.py prints right figures and clear errors, and its parts compute what is computed by hand here."""

import dataclasses
import runpy
from types import SimpleNamespace

import jax
import pytest

from tljax.core import gpu_memory
from tljax.core.errors import InputError
from tljax.distributed.mesh import make_mesh
from tljax.model import cost, llama
from tljax.plan import search as search_module
from tljax.plan.collectives import Transfer
from tljax.plan.measure import Plan, ProgramPlan, TrainingEstimate, estimate_training, measure
from tljax.plan.programs import Program
from tljax.plan.roofline import Roofline, Traffic, roofline
from tljax.plan.rows import divide_rows, rows_per_device, with_rows_per_device
from tljax.plan.search import (
    MAX_COMPILATIONS,
    Candidate,
    Trial,
    format_flags,
    format_trials,
    measure_all_programs,
    search,
)
from tljax.plan.topology import TPUS, Chip, Topology, count_corner_links, open_topology

WEIGHTS, NORMS = 6_738_546_688, 65 * 4096  # the numbers in CodeLLaMA-7B, as transformers counts them
CHIP = Chip("chip", memory=16e9, flops=100e12, memory_bandwidth=1e12, link_bandwidth=50e9)


@pytest.fixture(scope="module")
def config_of(repo):
    """config_of("sft", "7b") returns a fresh config of configs/sft.py:7b."""
    return lambda name, options="": runpy.run_path(str(repo / "configs" / f"{name}.py"))["get_config"](options)


def test_a_plan_for_gpus_is_counted_by_arithmetic(plan):
    """A weight takes 4 bytes and its moments 8, split over 8 GPUs; every GPU holds all norms."""
    code, out, _ = plan("sft.py:7b", "--config.topology=gpu:8x80GB")
    assert code == 0, out
    assert "weights    3.37 GB" in out and "optimizer  6.74 GB" in out
    assert "fits: step takes" in out and "by compute" in out
    # 8 rows of 8,192 tokens take 6 operations for every weight of a matrix product, and causal attention.
    products = WEIGHTS - NORMS - 32016 * 4096
    assert f"model {8 * 8192 * (6 * products + 6 * 32 * 4096 * 8192) / 1e12:,.1f} TFLOP" in out


def test_a_gpu_has_the_memory_that_jax_allocates_on_it(plan, monkeypatch):
    """JAX allocates 0.92 of it, as training sets it, or the share in a variable, which has an older name too."""
    for name in gpu_memory.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert "of each device, 73.60 GB for a program" in plan("sft.py:7b", "--config.topology=gpu:8x80GB")[1]
    for name in gpu_memory.VARIABLES:
        with monkeypatch.context() as patch:
            patch.delenv(gpu_memory.VARIABLES[0], raising=False)
            patch.setenv(name, "0.5")
            assert "of each device, 40.00 GB for a program" in plan("sft.py:7b", "--config.topology=gpu:8x80GB")[1]
            patch.setenv(name, "all")
            code, _, error = plan("sft.py:7b", "--config.topology=gpu:8x80GB")
            assert code == 2 and f"{name} is 'all'; allowed: a fraction of a GPU's memory" in error


def test_a_model_that_does_not_fit_ends_with_code_1_and_advice(plan):
    code, out, _ = plan("sft.py:70b", "--config.topology=gpu:8x80GB")
    assert code == 1 and "DOES NOT FIT" in out and "use more devices" in out


def test_a_plan_of_ppo_has_all_its_programs(plan):
    code, out, _ = plan("ppo.py:7b,lora", "--topology=gpu:8x80GB")
    assert code == 0, out
    assert all(f"\n{name}\n" in out for name in ("update", "experience", "rollout"))
    assert f"frozen weights  {2 * ((WEIGHTS - NORMS) / 8 + NORMS) / 1e9:.2f} GB" in out


def test_rows_that_do_not_divide_are_rounded_up_with_a_note(plan):
    code, out, _ = plan("sft.py:7b", "--config.topology=gpu:8x80GB", "--config.batch.rows=12")
    assert code == 0 and "note: batch.rows = 12" in out and "--config.batch.rows=16" in out


BAD = {
    "no topology": ([], ["no topology", "--config.topology="]),
    "no such kind": (["--config.topology=v9:2x2"], ["'v9:2x2'", "v5e"]),
    "no shape": (["--config.topology=v5e"], ["'v5e'", "AxB"]),
    "no chips": (["--config.topology=v5e:0x4"], ["'v5e:0x4'", "2 sides of 1 chip or more"]),
    "too many sides": (["--config.topology=v6e:2x2x2"], ["'v6e:2x2x2'", "TPU v6e has 2 sides"]),
    "GPUs of no size": (["--config.topology=gpu:8x80"], ["gpu:8x80", "gpu:8x80GB"]),
    "no GPUs": (["--config.topology=gpu:0x80GB"], ["gpu:0x80GB", "1 to 1024"]),
    "a field of no config": (["--config.topology=gpu:8x80GB", "--config.topo=1"], ["--config.topo", "no such field"]),
    "search is no number": (["--config.topology=gpu:8x80GB", "--search=maybe"], ["config.search", "true or false"]),
    "a model that does not divide": (["--config.topology=gpu:8x80GB", "--config.mesh.tensor=7"], ["mesh", "8 devices"]),
    "rows longer than the model": (
        ["--config.topology=gpu:8x80GB", "--config.data.max_tokens=32768", "--config.batch.tokens=32768"],
        ["data.max_tokens is 32768", "16384"],
    ),
    "no size": (["--config.topology=gpu:8x80GB", "--config.model.preset=tiny"], ["model.preset is 'tiny'", "7b"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_in_one_line(plan, name):
    flags, words = BAD[name]
    code, _, error = plan("sft.py:7b", *flags)
    assert code == 2 and error.startswith("error: ") and "\n" not in error, error
    assert all(word in error for word in words), error


def test_a_tpu_needs_the_tpu_compiler(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'tljax\[tpu\]'"):
        open_topology("v5e:4x4")


@pytest.mark.extended
def test_the_compiled_step_holds_its_state_and_gathers_weights_layer_by_layer(config_of):
    config = config_of("sft")
    config.batch.tokens = config.data.max_tokens = 256
    topology = Topology("here", CHIP, jax.devices()[:8], num_links=2, compiles=True)
    c = llama.preset("tiny", vocab_size=512)
    with jax.set_mesh(make_mesh(1, 8, 1, devices=topology.devices)):
        plan = measure(config, c, topology)
    norms = 9 * 128  # on every device
    split = 2 * 512 * 128 + 4 * (4 * 128 * 128 + 3 * 128 * 384)
    assert plan.resident["weights"] == 4 * (norms + split // 8)
    assert plan.resident["optimizer"] - 2 * plan.resident["weights"] < 64  # counters of updates
    step = plan.programs[0]
    assert plan.fits and step.gradient_bytes == plan.resident["weights"] and step.workspace_bytes > 0
    gathers = [t for t in step.compiled.transfers if t.in_layers and t.kind == "all-gather"]
    assert gathers and {t.num_runs % 4 for t in gathers} == {0} and {t.group_size for t in gathers} == {8}
    # Every matrix of a layer is gathered at least once.
    assert sum(t.size * t.num_runs for t in gathers) >= 4 * 4 * (4 * 128 * 128 + 3 * 128 * 384)


def test_a_roofline_is_the_slowest_of_its_limits():
    topology = Topology("four", CHIP, [None] * 4, num_links=2, compiles=True)
    bound = roofline(400e12, Traffic(memory=2e12, links=300e9), topology)
    assert bound == Roofline(compute=1.0, memory=2.0, links=3.0)
    assert (bound.seconds, bound.bottleneck) == (3.0, "links")
    slices = dataclasses.replace(topology, chip=dataclasses.replace(CHIP, network_bandwidth=5e9))
    bound = roofline(400e12, Traffic(memory=0, links=0, network=20e9), slices)
    assert (bound.network, bound.seconds, bound.bottleneck) == (4.0, 4.0, "network")
    unknown = dataclasses.replace(topology, chip=Chip("?", 1, 0, 0, 0))
    assert roofline(1e12, Traffic(memory=1, links=1), unknown) == Roofline(0, 0, 0)


@pytest.mark.parametrize(
    ("kind", "bytes_received"),
    [("all-gather", 14), ("reduce-scatter", 14), ("all-reduce", 28), ("collective-permute", 16)],
)
def test_a_device_in_a_ring_of_eight_receives_at_least_so_much(kind, bytes_received):
    assert Transfer(kind, 16, group_size=8, num_runs=3, in_layers=False).received == bytes_received


@pytest.mark.parametrize(
    ("shape", "ring_size", "links"),
    [([4, 4], 16, 2), ([16, 16], 16, 4), ([1, 1], 16, 1), ([2, 2, 1], 4, 2), ([4, 4, 4], 4, 6), ([2, 2, 4], 4, 3)],
)
def test_a_corner_has_two_links_per_closed_axis_and_one_per_open_axis(shape, ring_size, links):
    assert count_corner_links(shape, ring_size) == links


@pytest.fixture
def on_eight():
    with jax.set_mesh(make_mesh(1, 8, 1, devices=jax.devices()[:8])):
        yield


def test_rows_are_rounded_up_to_the_nearest_that_divide(config_of, on_eight):
    config = config_of("sft", "7b")
    config.batch.rows, config.batch.accumulate = 9, 2
    divided, notes = divide_rows(config)
    assert (divided.batch.rows, len(notes), config.batch.rows) == (16, 1, 9)
    config = config_of("ppo", "7b,lora")  # 64 replies in 16 parts: 4 rows a part, too few for 8 devices
    divided, notes = divide_rows(config)
    assert (divided.rollout.prompts, divided.ppo.accumulate) == (64, 8) and len(notes) == 1
    assert rows_per_device(divided) == 1 and rows_per_device(with_rows_per_device(divided, 4)) == 4


# A row takes so many gigabytes, and recomputes so much of a forward pass.
GIGABYTES = {"none": 30, "dots": 6, "attention": 3, "full": 1}
RECOMPUTED = {"none": 0, "dots": 0, "attention": 0.5, "full": 1}


@pytest.fixture
def run_search(config_of, monkeypatch):
    """Searches where memory and speed are known; run_search(scale) -> remats and rows in the order tried, and trials.

    scale: the estimated memory as a share of the measured one. resident_bytes: bytes that do not grow with rows.
    """

    def run(scale, resident_bytes=2e9):
        topology = Topology("here", CHIP, jax.devices()[:8], num_links=1, compiles=True)
        order = []

        def memory(config):
            return resident_bytes + 1e9 * GIGABYTES[config.model.remat] * rows_per_device(config)

        def time(config):
            return rows_per_device(config) * (3 + RECOMPUTED[config.model.remat]) + 1

        def measure(config, c, topology, num_programs):
            order.append((config.model.remat, rows_per_device(config)))
            program = SimpleNamespace(
                program=SimpleNamespace(flops=3.0 * rows_per_device(config)),
                total_bytes=memory(config),
                roofline=Roofline(time(config), 0, 0),
            )
            fits = program.total_bytes <= CHIP.memory
            return SimpleNamespace(config=config, programs=(program,), fits=fits, mesh="", topology=topology)

        def estimate(config, c, topology):
            return TrainingEstimate(scale * memory(config), 3 * rows_per_device(config) / time(config))

        monkeypatch.setattr(search_module, "estimate_training", estimate)
        monkeypatch.setattr(search_module, "measure", measure)
        return order, search(config_of("sft", "7b"), llama.preset("7b"), topology)

    return run


@pytest.mark.parametrize(
    ("scale", "tried"),
    [
        # Two rows with "dots" take 2 + 2 x 6 = 14 GB and are the fastest config that fits; four rows take 26 GB.
        (1.0, [("dots", 2)]),
        (0.8, [("dots", 2)]),
        (0.55, [("dots", 4), ("dots", 2)]),
    ],
)
def test_a_search_compiles_the_fastest_config_that_should_fit(run_search, scale, tried):
    order, trials = run_search(scale)
    assert order == tried
    best = trials[0]
    assert best.plan.fits and (best.candidate.config.model.remat, best.candidate.rows) == ("dots", 2)
    assert format_flags(best.candidate.config) == (
        "--config.mesh.tensor=1 --config.model.remat=dots --config.batch.rows=16"
    )
    assert len(format_trials(trials).splitlines()) == 1 + len(tried)


def test_a_search_goes_on_if_estimates_are_too_large(run_search):
    """The first trial takes three quarters of its estimate, so that larger candidates should fit too."""
    order, trials = run_search(1.33)
    assert order[0] != ("dots", 2) and order[-1] == ("dots", 2) and trials[0].candidate.rows == 2


def test_a_search_that_finds_nothing_compiles_the_smallest_config_of_each_mesh_and_ends(run_search, monkeypatch):
    order, trials = run_search(1.0, resident_bytes=15.5e9)
    assert set(order) == {("full", 1)} and len(order) == MAX_COMPILATIONS
    assert not any(trial.plan.fits for trial in trials)
    monkeypatch.setattr(search_module, "MAX_COMPILATIONS", 2)
    assert len(run_search(1.0, resident_bytes=15.5e9)[1]) == 2
    assert run_search(1.0, resident_bytes=60e9) == ([], [])


@pytest.mark.parametrize(("gigabytes", "rows", "fits"), [(1, 16, True), (2, 8, True), (3, 8, False)])
def test_the_rows_of_a_rollout_are_halved_until_it_fits(config_of, monkeypatch, gigabytes, rows, fits):
    """They are halved down to one row per device. gigabytes: what a row takes."""
    topology = Topology("here", CHIP, jax.devices()[:8], num_links=1, compiles=True)
    config = config_of("ppo", "7b,lora")
    config.rollout.rows = 64
    compiled = []

    def program(name, size):
        return ProgramPlan(Program(name, lambda: None, 1.0, 0.0, (), None), 0, 0, 0, size, None, Roofline(1, 0, 0))

    def measure(config, c, topology, measured):
        rollout = program("rollout", 1e9 * gigabytes * config.rollout.rows)
        rest = (program("update", 12e9), program("experience", 1e9), rollout)[len(measured) :]
        compiled.extend(x.program.name for x in rest)
        return Plan(config, topology, "", "", {}, (*measured, *rest))

    monkeypatch.setattr(search_module, "measure", measure)
    update_plan = Plan(config, topology, "", "", {}, (program("update", 12e9),))
    trial = Trial(Candidate(config, 1, 0, 1.0, 1.0), update_plan)
    plan = measure_all_programs(trial, llama.preset("7b"), topology)
    assert [x.program.name for x in plan.programs] == ["update", "experience", "rollout"]
    assert compiled[:2] == ["experience", "rollout"] and set(compiled[2:]) == {"rollout"}
    assert (plan.config.rollout.rows, plan.fits) == (rows, fits)
    assert f"--config.rollout.rows={rows}" in format_flags(plan.config)


@pytest.mark.parametrize(
    ("name", "tokens", "rows", "remat", "compiled", "seconds"),
    [("v6e:2x4", 4096, 8, "dots", 32.18e9, 0.209), ("v5p:2x2x2", 4096, 32, "dots", 72.97e9, 1.54)],
)
def test_estimates_are_near_the_figures_of_the_tpu_compiler(
    config_of, on_eight, name, tokens, rows, remat, compiled, seconds
):
    """compiled: bytes on a chip, seconds: the roofline of a step, of CodeLLaMA-7B on eight chips by libtpu 0.0.42."""
    config = config_of("sft", "7b")
    config.batch.tokens = config.data.max_tokens = tokens
    config.batch.rows, config.model.remat = rows, remat
    kind, _, shape = name.partition(":")
    links = count_corner_links([int(size) for size in shape.split("x")], TPUS[kind].ring_size)
    topology = Topology(name, TPUS[kind], jax.devices()[:8], links, compiles=True)
    estimate = estimate_training(config, llama.preset("7b"), topology)
    assert 0.9 < estimate.total_bytes / compiled < 1.05
    flops = rows * tokens * cost.flops_per_token(llama.preset("7b"), tokens)
    assert 0.9 < flops / estimate.flops_per_second / seconds < 1.35
