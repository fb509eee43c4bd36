"""The locks in requirements/ hold what pyproject.toml asks for, on every system and Python that is tested."""

import itertools
import re
import sys
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SYSTEMS = {
    "Linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    "Windows": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
    "macOS": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
}
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
LOCKED = {
    # files -> groups and extras
    ("ci.lock", "torch.lock"): (["dev"], ["cpu", "train", "ray", "bench"]),
    ("ci.lock", "torch-cpu.lock"): (["dev"], ["cpu", "train", "ray", "bench"]),
    ("runtime.lock",): (["runtime-test", "build"], ["cpu"]),
    ("cpu.lock",): ([], ["cpu"]),
    ("release.lock",): (["release"], []),
}


def entries(name):
    """The pinned requirements of a lock, and how many hashes each has."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    for entry in re.split(r"^(?=\w)", text, flags=re.MULTILINE):
        if entry:
            yield Requirement(entry.partition(" \\\n")[0]), len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))


def asked_for(groups, extras):
    """The requirements of pyproject.toml, with the groups and extras that they include."""
    for group in groups:
        for item in PROJECT["dependency-groups"][group]:
            if isinstance(item, str):
                yield Requirement(item)
            else:
                yield from asked_for([item["include-group"]], [])
    for extra in extras:
        for item in map(Requirement, PROJECT["project"]["optional-dependencies"][extra]):
            if item.name == PROJECT["project"]["name"]:
                yield from asked_for([], item.extras)
            else:
                yield item
    if extras:
        yield from map(Requirement, PROJECT["project"]["dependencies"])


def applies(requirement, environment):
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize(("system", "python"), list(itertools.product(SYSTEMS, PYTHONS)))
@pytest.mark.parametrize("names", list(LOCKED), ids="+".join)
def test_each_requirement_is_pinned_once_in_its_bounds(names, system, python):
    environment = {**default_environment(), **SYSTEMS[system], "python_version": python}
    environment |= {"python_full_version": f"{python}.4", "implementation_name": "cpython"}
    pinned = {}
    for requirement, _ in itertools.chain.from_iterable(map(entries, names)):
        if applies(requirement, environment):
            assert requirement.name not in pinned, requirement
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            pinned[requirement.name] = pin.version
    wanted = [requirement for requirement in asked_for(*LOCKED[names]) if applies(requirement, environment)]
    assert len(wanted) >= 5
    for requirement in wanted:
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in pinned, f"{requirement} is in none of {names}; run `make lock`"
        version = pinned[name].removesuffix("+cpu")
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}; run `make lock`"


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "requirements").glob("*.lock")))
def test_everything_has_hashes_and_comes_from_the_index_of_the_machine(name):
    assert all(hashes for _, hashes in entries(name))
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    options = {line.split("=")[0].strip() for line in text.splitlines() if line.startswith((" ", "-"))}
    assert options == {"--hash"}
    assert "://" not in text
