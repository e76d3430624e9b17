"""Attacks on a classifier: searches for images that it gets wrong, near to those that it gets right.

A search only proposes. What counts is decided by `audit.toolkit.verification`, which looks at every image afresh.

    losses.py    what a search climbs; none changes when logits are shifted or scaled
    rows.py      tensors whose first dimension is one row a job
    target.py    the model as a search sees it: logits, loss and gradient of a batch
    pool.py      many jobs in full batches; a job leaves as soon as its sample is broken
    balls.py     steps, projections and random starts in each norm
    pgd.py       steps of fixed length, FGSM among them
    apgd.py      Auto-PGD, inside a ball of given radius
    fmn.py       Fast Minimum-Norm, to the nearest image that fools the model
    cw.py        Carlini & Wagner, to the nearest image in L2
    census.py    what logits and gradients are like before anything is attacked
    square.py    Square, which needs no gradient
"""
