"""Compiled programs are stored in the user's cache, and a later start finds them."""

import os
import subprocess
import sys
import time

import jax
import pytest

from tljax.core import compilation_cache
from tljax.distributed.mesh import make_mesh

VARIABLES = (
    compilation_cache.FOLDER_VARIABLE,
    compilation_cache.SWITCH_VARIABLE,
    compilation_cache.MIN_SECONDS_VARIABLE,
)
# A script of ours that compiles one program, and prints how many JAX compiled and how many it found in its cache.
SCRIPT = """
import sys
from tljax.core.command import main

def run(config):
    from jax import jit, monitoring
    events = []
    monitoring.register_event_listener(lambda event, **fields: events.append(event))
    print(jit(lambda x: x + 41)(1), events.count("/jax/compilation_cache/cache_hits"))

main(run, "about", required_fields=("lr",))
"""
CONFIG = "from ml_collections import ConfigDict\nget_config = lambda: ConfigDict({'lr': 1.0})\n"


@pytest.fixture
def start(tmp_path):
    """start(**environment) -> what the script above prints, with a user's cache of its own."""
    (tmp_path / "config.py").write_text(CONFIG)

    def run(**changes: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_NUM_CPU_DEVICES": "1"} | changes
        command = [sys.executable, "-c", SCRIPT, f"--config={tmp_path / 'config.py'}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def files(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_the_second_start_of_a_script_finds_its_programs_in_the_users_cache(start, tmp_path):
    assert start() == "42 0"
    stored = files(tmp_path)
    assert stored and all(path.is_relative_to(tmp_path / "cache" / "tljax" / "programs") for path in stored)
    assert start() == "42 1"


def test_a_variable_of_jax_switches_the_cache_off_or_moves_it(start, tmp_path):
    assert start(JAX_ENABLE_COMPILATION_CACHE="false") == "42 0"
    assert start(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "other"), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert not files(tmp_path) and list((tmp_path / "other").iterdir())


def test_a_cache_that_cannot_be_written_is_done_without(start, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    assert start() == "42 0"


def test_programs_of_more_than_30_days_ago_are_removed(monkeypatch, tmp_path):
    for name in VARIABLES:
        # setenv first, so that what use_compilation_cache sets is taken back after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = compilation_cache.default_folder()
    folder.mkdir(parents=True)
    for name, days in (("old", 31), ("young", 29)):
        (folder / name).touch()
        os.utime(folder / name, (time.time(), time.time() - days * 86_400))
    compilation_cache.use_compilation_cache()
    assert [path.name for path in folder.iterdir()] == ["young"]
    assert os.environ[compilation_cache.FOLDER_VARIABLE] == str(folder)


@pytest.mark.parametrize(
    ("version", "devices", "used"), [((0, 10, 2), 8, True), ((0, 12, 0), 8, False), ((0, 12, 0), 1, True)]
)
def test_several_cpu_devices_store_nothing_where_their_collectives_could_deadlock(monkeypatch, version, devices, used):
    before = jax.config.jax_enable_compilation_cache
    monkeypatch.setattr(jax, "__version_info__", version)
    try:
        jax.config.update("jax_enable_compilation_cache", True)
        make_mesh(devices=jax.devices()[:devices])
        assert jax.config.jax_enable_compilation_cache == used
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
