"""The READMEs name files that exist, and flags that the configs have."""

import re
import runpy
from pathlib import Path

import pytest

READMES = (
    *("README.md", "launch/README.md", "launch/SMOLLM2.md", "launch/gcp/README.md", "configs/README.md"),
    "tljax/README.md",
)
# Backticked words that end like a file and are the user's own, or are made by a command.
OTHERS = re.compile(
    r"(raw_data|irm_data|queries|config|report|F|mine|begun|adapter_config|deepspeed)\.(json|jsonl|toml)|\w+\.py:\w+|"
    r"(mytools|my_\w+)\.py|rules\.txt|(metrics|samples|answers|replies|prompts|steps)\.jsonl|"
    r"(report|dialogues)\.[\w.]+|eval_\w+\.json|run\.py|.*/NAME\.py"
)


@pytest.mark.parametrize("name", READMES)
def test_links_and_paths_exist(repo, name):
    file = repo / name
    text = file.read_text()
    missing = []
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith("http") and not (file.parent / target).exists():
            missing.append(target)
    for path in re.findall(r"`([\w./-]+\.(?:py|sh|md|toml|yaml|json|jsonl|txt|jinja))`", text):
        places = (repo, repo / "tljax", repo / "launch", file.parent)
        if not OTHERS.fullmatch(path) and not any((place / path).exists() for place in places):
            missing.append(path)
    # The pipeline's figure: "tljax/data/reader.py, trajectory.py" are two files of one folder.
    for first, others in re.findall(r"^ .*?(tljax/[\w/]+\.py)((?:, [\w/]+\.py)*)", text, re.M):
        folder = (repo / first).parent
        beside = [file for file in others.split(", ") if file]
        missing += [first] * (not (repo / first).is_file())
        missing += [file for file in beside if not any((place / file).is_file() for place in (folder, repo / "tljax"))]
    assert not missing, f"{name} names what is not there: {missing}"


@pytest.mark.parametrize("name", READMES)
def test_sections_that_are_linked_exist(repo, name):
    for target, section in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", (repo / name).read_text()):
        text = ((repo / name).parent / target).read_text() if target else (repo / name).read_text()
        heads = [
            re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-")
            for head in re.findall(r"^#+ (.*)", text, re.M)
        ]
        assert section in heads, f"{name} links {target}#{section}; its sections are {heads}"


def commands(text: str) -> list[str]:
    """The `python launch/...` commands of a README, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    return re.findall(r"python (launch/\w+\.py [^`\n#]*)", joined)


@pytest.mark.parametrize("name", READMES)
def test_commands_set_fields_that_the_config_has(repo, name):
    for command in commands((repo / name).read_text()):
        path, options = re.findall(r"--config[= ](configs/\w+\.py)(?::([\w,]+))?", command)[0]
        get_config = runpy.run_path(str(repo / path))["get_config"]
        config = get_config(options) if options else get_config()
        assert (repo / command.split()[0]).is_file(), command
        own = ("topology", "search") if "plan.py" in command else ()
        for field in set(re.findall(r"--config\.([\w.]+)=", command)) - set(own):
            block = config
            for part in field.split("."):
                assert part in block, f"{name}: {command}: {path} has no field {field}"
                block = block[part]


def test_the_first_page_is_short(repo):
    assert len((repo / "README.md").read_text().splitlines()) <= 150


def test_every_command_of_the_first_page_is_found(repo):
    found = commands((repo / "README.md").read_text())
    assert {Path(command.split()[0]).name for command in found} >= {"train.py", "evaluate.py", "export_hf.py"}
