"""What a network costs on this machine: time, arithmetic and memory. `esrgan-bench` is the command on top.

flops.py counts the arithmetic of a graph, measure.py times sessions, peak.py finds out how fast this machine could
have been, machine.py says which machine it was, report.py writes it all down.
"""
