"""The table by class, its JSON, and the folder of failures."""

import json
from collections import Counter, defaultdict

from esrgan_deploy.cli.terminal import printable


def rows(verdicts):
    """One row for each class."""
    by_kind = defaultdict(list)
    for verdict in verdicts:
        by_kind[verdict.kind].append(verdict)
    made = []
    for kind, group in sorted(by_kind.items()):
        slowest, largest = max(group, key=lambda v: v.seconds), max(group, key=lambda v: v.peak)
        faults = Counter(fault for verdict in group for fault in {kind for kind, _ in verdict.faults})
        codes = Counter(str(verdict.codes[-1]) for verdict in group if verdict.codes)
        made.append(
            {
                "class": kind,
                "cases": len(group),
                "exit_codes": dict(sorted(codes.items())),
                "failed": sum(1 for verdict in group if verdict.faults),
                "faults": dict(sorted(faults.items())),
                "slowest_s": round(slowest.seconds, 1),
                "slowest": f"--seed {slowest.seed} --case {slowest.name}",
                "most_mib": largest.peak >> 20,
                "most": f"--seed {largest.seed} --case {largest.name}",
            }
        )
    return made


def table(verdicts):
    """As text."""
    head = ("class", "cases", "0", "2", "3", "other", "failed", "slowest s", "most MiB")
    lines = [head]
    for row in rows(verdicts):
        codes = row["exit_codes"]
        other = sum(count for code, count in codes.items() if code not in ("0", "2", "3"))
        known = [codes.get(code, 0) for code in ("0", "2", "3")]
        lines.append((row["class"], row["cases"], *known, other, row["failed"], row["slowest_s"], row["most_mib"]))
    widths = [max(len(str(line[n])) for line in lines) for n in range(len(head))]
    return "\n".join(
        "  ".join(f"{cell!s:{'<' if n == 0 else '>'}{widths[n]}}" for n, cell in enumerate(line)) for line in lines
    )


def write_json(path, verdicts, command, facts):
    """All that the table says, and how to make it again."""
    total = Counter(kind for verdict in verdicts for kind, _ in verdict.faults)
    content = {
        "command": command,
        **facts,
        "cases": len(verdicts),
        "failed": sum(1 for verdict in verdicts if verdict.faults),
        "faults": dict(sorted(total.items())),
        "most_mib": max((verdict.peak for verdict in verdicts), default=0) >> 20,
        "slowest_s": max((verdict.seconds for verdict in verdicts), default=0),
        "classes": rows(verdicts),
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def lines_of(verdict):
    """A failure, to be read."""
    head = f"{verdict.kind}/{verdict.idea}  --seed {verdict.seed} --case {verdict.name}  exit {verdict.codes}"
    lines = [head, *(f"    {kind}: {text}" for kind, text in verdict.faults)]
    lines += [f"    $ {command[:300]}" for command in verdict.commands]
    if verdict.faults and verdict.last:
        lines.append(f"    > {verdict.last[:300]}")
    return [printable(line) for line in lines]
