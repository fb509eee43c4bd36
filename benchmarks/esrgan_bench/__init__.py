"""What a network costs on this machine: time, arithmetic, memory and energy. The command is `esrgan-bench`.

- cases.py: what to measure, every combination of the options; traffic.py counts the bytes that a graph moves
- measure.py: measures case after case; rounds.py times a session, energy.py and nvml.py read energy counters
- peak.py: how fast a large matrix product is in the same backend; bandwidth.py: a large copy in main memory
- report.py: the figures as JSON; table.py and markdown.py: as tables; page.py and plots.py: as a page (--html)
- compare.py: what became slower than in an older file (--compare)
- expect.py: the speed of whole frames, from a small probe (--expect)
"""
