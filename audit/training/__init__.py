"""Trains classifiers: the one seam through which every defence and attack model of the tool is made.

A trainer takes a model, a split, a configuration and a context, and returns weights and a log. It seeds nothing global,
prints nothing, and chooses an epoch by a held-out part of the training data alone, so that no test image ever decides.

    config.py        what can be set, with the documented recipe as default
    context.py       what surrounds a training: a device, random streams, time, progress
    feed.py          images in memory where they fit, else decoded in time; augmentation
    objectives.py    what one batch asks of the model: labels, worst-case images, a teacher's answers
    inner.py         worst-case images inside a training step
    loop.py          epochs, the best of them, and how a training ends
    optimizing.py    the optimizer and its learning rate
    held_out.py      what the model can do on images that it is not trained on
    overfitting.py   whether single-step training has stopped to defend against several steps
    placing.py       mixed precision, memory format and compilation
    state.py         what is kept after every epoch, so that a training can go on where it was stopped
    log.py           what a training leaves besides weights
    recipes.py       standard, adversarial and distillation training by name
    record.py        what `audit train` leaves beside the weights
"""
