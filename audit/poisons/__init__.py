"""Poisons, planted to a recipe in a copy of a data set: for canaries, fixtures and research.

A recipe changes images, labels, or both, of rows that it chooses by a seed; a sham changes images in a way that tells
nothing of the class, so that a detector must stay silent about it. Nothing here writes into the data that it is given.

    recipe.py      what a recipe is
    filters.py     class-wise convolution (CUDA), and the sham of one filter for all
    triggers.py    backdoors: BadNets, Blended, SIG, WaNet
    classwise.py   other class-wise shortcuts: additive noise and patches
    flips.py       label noise: uniform, to the next class, or between given pairs
    shams.py       brightness and patches that hang on no label
    planting.py    a recipe, a split and a seed to a poisoned split and its truth
    by_name.py     recipes by name, with their documented strength
"""
