"""Pictures for training.

pictures.py       find and decode them
cache.py          decoded once, then mapped into memory
crops.py          random crops by number
degradation.py    LR crops made by Real-ESRGAN's degradation (degradation_options.py, kernels.py)
loader.py         batches of crops, made in threads
dataset_check.py  `esrgan-train doctor`: what is wrong with a data set (image_check.py, lr_check.py, dataset_report.py)
"""
