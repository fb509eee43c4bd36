"""Evaluation of super-resolution methods on folders of pictures: metrics, tables, pages to look at, opinion scores.

pictures   HR pictures, their LR partners, and how names and sizes are matched
methods    what makes SR pictures: a folder of results, a network, bicubic
measures   what is computed of an SR picture, and how a mean is taken
evaluate   all methods on all pictures
report     the result as a table and as JSON
page       the result as an HTML page with crops side by side
mos        a blind test for mean opinion scores, and counting its answers
"""
