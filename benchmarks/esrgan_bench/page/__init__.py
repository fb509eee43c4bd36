"""A benchmark as one HTML file: the fastest of each network, plots, all figures, and the machine.

rows.py says which results belong together; axes.py, labels.py and canvas.py draw, plots.py knows what; table.py has all
figures; document.py puts the page together, and style.css has its colours for light, dark and paper. Nothing is loaded
from elsewhere, and nothing runs in it.
"""

from esrgan_bench.page.document import write_page

__all__ = ["write_page"]
