"""Plans as a user makes them, and the numbers they are made of."""

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
from tljax.plan.bound import Bound, bound
from tljax.plan.collectives import Transfer
from tljax.plan.fitting import divisible, flags, rows_of, with_rows
from tljax.plan.measure import Measured, Part, guess, measure
from tljax.plan.programs import Program
from tljax.plan.search import COMPILES, Candidate, Tried, format_tried, search, whole
from tljax.plan.topology import TPUS, Chip, Topology, fewest_links, open_topology

WEIGHTS, NORMS = 6_738_546_688, 65 * 4096  # of CodeLLaMA-7B, as transformers counts them
CHIP = Chip("chip", memory=16e9, flops=100e12, memory_rate=1e12, link_rate=50e9)


@pytest.fixture(scope="module")
def config_of(repo):
    """A fresh config of a file: config_of("sft", "7b")."""
    return lambda name, options="": runpy.run_path(str(repo / "configs" / f"{name}.py"))["get_config"](options)


def test_a_model_on_gpus_by_arithmetic(plan):
    """Over 8 GPUs a weight takes 4 bytes, and its moments twice that; norms are on every one of them."""
    code, out, _ = plan("sft.py:7b", "--config.topology=gpu:8x80GB")
    assert code == 0, out
    assert "weights    3.37 GB" in out and "optimizer  6.74 GB" in out
    assert "fits: step takes" in out and "by compute" in out
    # 8 rows of 8,192 tokens; 6 operations for every weight of a product, and causal attention.
    products = WEIGHTS - NORMS - 32016 * 4096
    assert f"model {8 * 8192 * (6 * products + 6 * 32 * 4096 * 8192) / 1e12:,.1f} TFLOP" in out


def test_a_gpu_has_the_memory_that_jax_takes_of_it(plan, monkeypatch):
    """0.92 of it, as training sets it, or what the variable says, under its older name too."""
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


def test_a_model_that_does_not_fit(plan):
    code, out, _ = plan("sft.py:70b", "--config.topology=gpu:8x80GB")
    assert code == 1 and "DOES NOT FIT" in out and "use more devices" in out


def test_ppo_counts_all_its_programs(plan):
    code, out, _ = plan("ppo.py:7b,lora", "--topology=gpu:8x80GB")
    assert code == 0, out
    assert all(f"\n{name}\n" in out for name in ("update", "experience", "rollout"))
    assert f"frozen weights  {2 * ((WEIGHTS - NORMS) / 8 + NORMS) / 1e9:.2f} GB" in out


def test_rows_that_do_not_divide_are_raised_with_a_note(plan):
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
def test_mistakes_get_one_line(plan, name):
    flags, words = BAD[name]
    code, _, error = plan("sft.py:7b", *flags)
    assert code == 2 and error.startswith("error: ") and "\n" not in error, error
    assert all(word in error for word in words), error


def test_a_tpu_needs_its_compiler(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'tljax\[tpu\]'"):
        open_topology("v5e:4x4")


def test_the_step_on_these_devices(config_of):
    """The real step, compiled: what stays by the number of weights, and weights gathered within the layer loop."""
    config = config_of("sft")
    config.batch.tokens = config.data.max_tokens = 256
    topology = Topology("here", CHIP, jax.devices()[:8], links=2, compiles=True)
    c = llama.preset("tiny", vocab_size=512)
    with jax.set_mesh(make_mesh(1, 8, 1, devices=topology.devices)):
        plan = measure(config, c, topology)
    norms = 9 * 128  # replicated
    split = 2 * 512 * 128 + 4 * (4 * 128 * 128 + 3 * 128 * 384)
    assert plan.kept["weights"] == 4 * (norms + split // 8)
    assert plan.kept["optimizer"] - 2 * plan.kept["weights"] < 64  # counts of updates
    part = plan.parts[0]
    assert plan.fits and part.gradients == plan.kept["weights"] and part.work > 0
    inside = [t for t in part.compiled.transfers if t.in_layers and t.kind == "all-gather"]
    assert inside and {t.times % 4 for t in inside} == {0} and {t.group for t in inside} == {8}
    # Every matrix of a layer is gathered for the forward pass at least, and for the backward pass.
    assert sum(t.size * t.times for t in inside) >= 4 * 4 * (4 * 128 * 128 + 3 * 128 * 384)


def test_bounds_by_hand():
    found = bound(flops=400e12, traffic=2e12, moved=300e9, chip=CHIP, devices=4, links=2)
    assert found == Bound(compute=1.0, memory=2.0, links=3.0)
    assert (found.seconds, found.by) == (3.0, "links")
    far = bound(400e12, 0, 0, dataclasses.replace(CHIP, network_rate=5e9), devices=4, links=2, far=20e9)
    assert (far.network, far.seconds, far.by) == (4.0, 4.0, "network")
    assert bound(1e12, 1, 1, Chip("?", 1, 0, 0, 0), 4, 1) == Bound(0, 0, 0)


@pytest.mark.parametrize(
    ("kind", "bytes_received"),
    [("all-gather", 14), ("reduce-scatter", 14), ("all-reduce", 28), ("collective-permute", 16)],
)
def test_what_a_ring_of_eight_must_receive(kind, bytes_received):
    assert Transfer(kind, 16, group=8, times=3, in_layers=False).received == bytes_received


@pytest.mark.parametrize(
    ("sides", "ring", "links"),
    [([4, 4], 16, 2), ([16, 16], 16, 4), ([1, 1], 16, 1), ([2, 2, 1], 4, 2), ([4, 4, 4], 4, 6), ([2, 2, 4], 4, 3)],
)
def test_links_of_a_corner(sides, ring, links):
    assert fewest_links(sides, ring) == links


@pytest.fixture
def on_eight():
    with jax.set_mesh(make_mesh(1, 8, 1, devices=jax.devices()[:8])):
        yield


def test_rows_are_raised_as_little_as_divides(config_of, on_eight):
    config = config_of("sft", "7b")
    config.batch.rows, config.batch.accumulate = 9, 2
    found, notes = divisible(config)
    assert (found.batch.rows, len(notes), config.batch.rows) == (16, 1, 9)
    config = config_of("ppo", "7b,lora")  # 64 replies in 16 parts, where 8 places have a row each in 8
    found, notes = divisible(config)
    assert (found.rollout.prompts, found.ppo.accumulate) == (64, 8) and len(notes) == 1
    assert rows_of(found) == 1 and rows_of(with_rows(found, 4)) == 4


GIGABYTES = {"none": 30, "dots": 6, "attention": 3, "full": 1}  # of a row
AGAIN = {"none": 0, "dots": 0, "attention": 0.5, "full": 1}


@pytest.fixture
def searched(config_of, monkeypatch):
    """A search in a world where memory and speed are known: searched(low, kept) -> what was tried, in order, and found.

    low: what arithmetic says of the memory that a program takes; kept: bytes that do not grow with rows.
    """

    def run(low, kept=2e9):
        topology = Topology("here", CHIP, jax.devices()[:8], links=1, compiles=True)
        order = []

        def memory(config):
            return kept + 1e9 * GIGABYTES[config.model.remat] * rows_of(config)

        def time(config):
            return rows_of(config) * (3 + AGAIN[config.model.remat]) + 1

        def measure(config, c, topology, only):
            order.append((config.model.remat, rows_of(config)))
            program = SimpleNamespace(flops=3.0 * rows_of(config))
            part = SimpleNamespace(program=program, total=memory(config), bound=Bound(time(config), 0, 0))
            fits = part.total <= CHIP.memory
            return SimpleNamespace(config=config, parts=(part,), fits=fits, mesh="", topology=topology)

        monkeypatch.setattr(search_module, "guess", lambda x, c, t: (low * memory(x), 3 * rows_of(x) / time(x)))
        monkeypatch.setattr(search_module, "measure", measure)
        return order, search(config_of("sft", "7b"), llama.preset("7b"), topology)

    return run


@pytest.mark.parametrize(
    ("low", "tried"),
    [
        # "dots" takes 2 + 6 x 2 = 14 GB for two rows, the fastest that fit, and 26 for four.
        (1.0, [("dots", 2)]),
        (0.8, [("dots", 2)]),
        (0.55, [("dots", 4), ("dots", 2)]),
    ],
)
def test_a_search_compiles_the_fastest_that_should_fit(searched, low, tried):
    order, found = searched(low)
    assert order == tried
    best = found[0]
    assert best.plan.fits and (best.candidate.config.model.remat, best.candidate.rows) == ("dots", 2)
    assert flags(best.candidate.config) == "--config.mesh.tensor=1 --config.model.remat=dots --config.batch.rows=16"
    assert len(format_tried(found).splitlines()) == 1 + len(tried)


def test_a_search_goes_on_where_arithmetic_says_too_much(searched):
    """Three quarters of what arithmetic says: the first that fits tells that there is room for more."""
    order, found = searched(1.33)
    assert order[0] != ("dots", 2) and order[-1] == ("dots", 2) and found[0].candidate.rows == 2


def test_a_search_ends(searched, monkeypatch):
    """Where nothing fits the smallest of each mesh is compiled; never more than COMPILES."""
    order, found = searched(1.0, kept=15.5e9)
    assert set(order) == {("full", 1)} and len(order) == COMPILES and not any(x.plan.fits for x in found)
    monkeypatch.setattr(search_module, "COMPILES", 2)
    assert len(searched(1.0, kept=15.5e9)[1]) == 2
    assert searched(1.0, kept=60e9) == ([], [])


@pytest.mark.parametrize(("gigabytes", "rows", "fits"), [(1, 16, True), (2, 8, True), (3, 8, False)])
def test_a_rollout_that_does_not_fit_is_halved(config_of, monkeypatch, gigabytes, rows, fits):
    """Down to a row on each of the devices, of which a rollout takes so much here."""
    topology = Topology("here", CHIP, jax.devices()[:8], links=1, compiles=True)
    config = config_of("ppo", "7b,lora")
    config.rollout.rows = 64
    compiled = []

    def part(name, size):
        return Part(Program(name, lambda: None, 1.0, 0.0, (), None), 0, 0, 0, size, None, Bound(1, 0, 0))

    def measure(config, c, topology, known):
        parts = (part("update", 12e9), part("experience", 1e9), part("rollout", 1e9 * gigabytes * config.rollout.rows))
        compiled.extend(x.program.name for x in parts[len(known) :])
        return Measured(config, topology, "", "", {}, (*known, *parts[len(known) :]))

    monkeypatch.setattr(search_module, "measure", measure)
    learns = Measured(config, topology, "", "", {}, (part("update", 12e9),))
    plan = whole(Tried(Candidate(config, 1, 0, 1.0, 1.0), learns), llama.preset("7b"), topology)
    assert [x.program.name for x in plan.parts] == ["update", "experience", "rollout"]
    assert compiled[:2] == ["experience", "rollout"] and set(compiled[2:]) == {"rollout"}
    assert (plan.config.rollout.rows, plan.fits) == (rows, fits)
    assert f"--config.rollout.rows={rows}" in flags(plan.config)


@pytest.mark.parametrize(
    ("name", "tokens", "rows", "remat", "compiled", "seconds"),
    [("v6e:2x4", 4096, 8, "dots", 32.18e9, 0.209), ("v5p:2x2x2", 4096, 32, "dots", 72.97e9, 1.54)],
)
def test_arithmetic_is_near_what_the_tpu_compiler_says(
    config_of, on_eight, name, tokens, rows, remat, compiled, seconds
):
    """Bytes on a chip, and the bound of a step, as libtpu 0.0.42 compiled CodeLLaMA-7B for eight of them."""
    config = config_of("sft", "7b")
    config.batch.tokens = config.data.max_tokens = tokens
    config.batch.rows, config.model.remat = rows, remat
    kind, _, sides = name.partition(":")
    links = fewest_links([int(side) for side in sides.split("x")], TPUS[kind].ring)
    topology = Topology(name, TPUS[kind], jax.devices()[:8], links, compiles=True)
    memory, rate = guess(config, llama.preset("7b"), topology)
    assert 0.9 < memory / compiled < 1.05
    tokens_flops = rows * tokens * cost.flops_per_token(llama.preset("7b"), tokens)
    assert 0.9 < tokens_flops / rate / seconds < 1.35
