"""How long a user waits before anything happens: the import, and `--help` of every command.

Each line is a fresh interpreter; `python -c pass` and `import numpy` stand beside them as lower bounds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median

from side_by_side import interleaved, save

IMPORT_TARGET_S = 0.25
HELP_TARGET_S = 0.4


def main() -> None:
    """Measure, print a table, write results/startup.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="interpreters of each kind (default: 15)")
    rounds = parser.parse_args().rounds
    commands, targets = _commands()
    seconds = interleaved({name: partial(_run, command) for name, command in commands.items()}, rounds)
    rows = []
    print(f"{'':32} {'median s':>9} {'slowest s':>9} {'target s':>9}")
    for name, times in seconds.items():
        target = targets.get(name)
        row = {"what": name, "median_s": median(times), "slowest_s": max(times), "target_s": target}
        rows.append({**row, "met": None if target is None else median(times) < target})
        print(f"{name:32} {median(times):9.3f} {max(times):9.3f} {target or '':>9}")
    save("startup", {"rounds": rounds, "results": rows})


def _commands() -> tuple[dict[str, list[str]], dict[str, float]]:
    """What to run, and the target of what has one."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import numpy": [sys.executable, "-c", "import numpy"],
        "import esrgan_deploy": [sys.executable, "-c", "import esrgan_deploy"],
    }
    targets = {"import esrgan_deploy": IMPORT_TARGET_S}
    folder = Path(sys.executable).parent
    for script in metadata.distribution("esrgan-deploy").entry_points.select(group="console_scripts"):
        commands[f"{script.name} --help"] = [str(folder / script.name), "--help"]
        targets[f"{script.name} --help"] = HELP_TARGET_S
    return commands, targets


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
