"""What a network costs on this machine: time, arithmetic, memory and energy. `esrgan-bench` is the command on top.

plan.py lists what to measure; flops.py and traffic.py count the arithmetic and the bytes of a graph; rounds.py times a
session, measure.py case after case. peak.py and bandwidth.py find out how fast this machine could have been, machine.py
and nvml.py say which machine it was, energy.py reads its counters. report.py, markdown.py and page/ write it all
down, compare.py finds what became slower, and expect.py tells the speed of whole frames from a small probe.
"""
