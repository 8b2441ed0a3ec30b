"""Rules that no single file shows: the imports between rooms, the sizes of files, the contents of docstrings."""

import ast
import re
import subprocess
import sys
from pathlib import Path

# The rooms from the bottom up: each may import itself and those before it.
ROOMS = (
    *("core", "distributed", "storage", "calls", "data", "toolbox", "model", "training", "generate"),
    *("evaluate", "agent", "analysis", "sft", "rl", "plan", "bench"),
)
# Rooms that stand below another one and are not imported by it.
APART = {
    "calls": ("distributed", "storage"),
    "data": ("distributed",),
    "toolbox": ("distributed",),
    "model": ("calls", "data", "toolbox"),
    "training": ("calls", "data", "toolbox"),
    "analysis": ("agent",),
    "sft": ("agent", "analysis", "generate"),
    "rl": ("analysis", "sft"),
    "plan": ("agent", "analysis", "evaluate", "storage"),
    "bench": ("agent", "analysis", "evaluate"),
}
ALLOWED = {
    f"tljax.{room}": tuple(f"tljax.{below}" for below in ROOMS[: i + 1] if below not in APART.get(room, ()))
    for i, room in enumerate(ROOMS)
}
# Modules that may import less than their room: the prefixes of ours that they import.
ALLOWED |= {
    "tljax.sft.loss": (),
    "tljax.sft.step": (
        *("tljax.sft.loss", "tljax.model", "tljax.training", "tljax.distributed"),
        "tljax.data.batch_arrays",
    ),
    "tljax.data.batch_arrays": (),
    "tljax.rl.irm": ("tljax.core", "tljax.calls"),
    "tljax.rl.reward_workers": ("tljax.rl.irm", "tljax.core", "tljax.calls"),
    "tljax.rl.reward": (
        *("tljax.rl.irm", "tljax.rl.call_matching", "tljax.rl.reward_workers"),
        *("tljax.core", "tljax.calls", "tljax.data", "tljax.distributed.processes"),
    ),
    "tljax.rl.call_matching": ("tljax.rl.irm", "tljax.calls"),
    "tljax.rl.gae": (),
    "tljax.rl.loss": (),
    "tljax.evaluate.score": ("tljax.core", "tljax.calls"),
    "tljax.plan.hlo": (),
    "tljax.plan.collectives": ("tljax.plan.hlo",),
    "tljax.plan.topology": ("tljax.core", "tljax.training.mfu"),
    "configs": ("tljax.core.config",),
    "launch": ("tljax",),
    "launch.gcp": (),
    "launch.interruptible": (),
}
WITHOUT_JAX = ("tljax.core", "tljax.calls", "tljax.data", "tljax.toolbox", "tljax.evaluate.score")
WITHOUT_JAX += ("tljax.evaluate.benchmarks", "tljax.analysis.call_errors")
WITHOUT_JAX += ("tljax.analysis.feedback_errors", "tljax.agent.executors")
WITHOUT_JAX += ("tljax.rl.irm", "tljax.rl.call_matching", "tljax.rl.reward", "tljax.rl.reward_workers")


def modules(repo: Path) -> dict[str, Path]:
    files = [f for folder in ("tljax", "configs", "launch", "tests") for f in (repo / folder).rglob("*.py")]
    return {".".join(f.relative_to(repo).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def imports(file: Path) -> set[str]:
    """Absolute names of everything a file imports, `from a import b` as a.b."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)


def rule_of(module: str) -> tuple[str, ...] | None:
    return next((ALLOWED[k] for k in sorted(ALLOWED, key=len, reverse=True) if f"{module}.".startswith(f"{k}.")), None)


def test_imports_point_one_way(repo):
    assert {path.name for path in (repo / "tljax").iterdir() if (path / "__init__.py").is_file()} == set(ROOMS)
    wrong = []
    for module, file in modules(repo).items():
        rule = rule_of(module)
        if module in ("tljax", "tests") or module.startswith("tests."):
            continue
        assert rule is not None, f"{module} has no rule: add its folder to ALLOWED"
        for name in imports(file):
            if name.startswith("tljax") and not within(name, rule):
                wrong.append(f"{module} imports {name}")
            if within(module, WITHOUT_JAX) and name.partition(".")[0] in ("jax", "jaxlib", "flax", "optax", "orbax"):
                wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(wrong)


# Imports all of them in one process, since each start of Python takes seconds. Names the first one that imports jax.
IMPORT_IN_TURN = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    if "jax" in sys.modules:
        sys.exit(f"{module} imports jax")
"""


def test_data_rewards_and_scores_load_without_jax():
    names = (
        "tljax.data.prepare",
        "tljax.data.examples",
        "tljax.toolbox.embedded",
        "tljax.data.prompt_table",
        "tljax.rl.reward",
        "tljax.evaluate.score",
        "tljax.evaluate.benchmarks.scoring",
    )
    done = subprocess.run([sys.executable, "-c", IMPORT_IN_TURN, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_gcp_scripts_need_python_alone(repo):
    """They run where gcloud is, and that need not be where jax is."""
    scripts = {name: file for name, file in modules(repo).items() if rule_of(name) == () and name.startswith("launch.")}
    known = sys.stdlib_module_names | {name.rpartition(".")[2] for name in scripts}
    wrong = [
        f"{name}: {used}" for name, file in scripts.items() for used in imports(file) if used.split(".")[0] not in known
    ]
    assert scripts and not wrong, wrong


def test_files_are_small_enough_to_read(repo):
    sizes = {name: len(file.read_text().splitlines()) for name, file in modules(repo).items()}
    large = {name: size for name, size in sizes.items() if size > 350}
    assert not large, f"over 350 lines: {large}"


def test_every_room_lists_its_files(repo):
    missing = []
    for package in (repo / "tljax").rglob("__init__.py"):
        if package.parent == repo / "tljax":
            continue
        listed = ast.get_docstring(ast.parse(package.read_text())) or ""
        files = {file.stem for file in package.parent.glob("*.py")} - {"__init__"}
        missing += [f"{package.parent}/{name}.py" for name in sorted(files - set(re.findall(r"\w+", listed)))]
    assert not missing, f"the __init__ docstring of their folder does not list: {missing}"


def test_every_config_field_is_read(repo):
    """A field that nothing reads is a promise nobody keeps."""
    blocks = repo / "tljax" / "core" / "config.py"
    readers = [f for f in modules(repo).values() if not {"configs", "tests"} & set(f.parts) and f != blocks]
    code = "\n".join(f.read_text() for f in readers)
    fields = set()
    for file in [*(repo / "configs").glob("*.py"), blocks]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                fields.add(node.targets[0].attr)
    unread = [name for name in sorted(fields) if f".{name}" not in code and f'"{name}"' not in code]
    assert fields and not unread, f"set in a config and read nowhere: {unread}"
