"""esrgan-eval: compare super-resolution methods on folders of pictures.

image_pairs.py   HR pictures and their LR partners, matched by name and size
methods.py       what makes SR pictures: a folder of results, a network, bicubic
measures.py      what is computed of an SR picture, and how the mean over a data set is taken (ma_scores.py)
degradations.py  LR as people have it: five ways to damage clean LR
evaluate.py      run all methods on all pictures
score_table.py   the scores as a table of text and as JSON
page.py          the scores as an HTML page with crops side by side (html_images.py)
mos.py           a blind test for mean opinion scores, and counting its answers
"""
