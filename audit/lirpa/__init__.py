"""Linear relaxation: bounds that hold for every image of a region, of any network that `torch.export` takes.

    lowering    a module to a `Program`: one image, plain operators, composite ones kept whole
    graph       the operations with their constants in place: a `Graph`
    region      the images that are covered: a box, or a ball within the box of pixels
    rules/      a file a family of operators: how an interval passes, and how a linear bound passes backwards
    intervals   all operations' ranges, forwards: interval bound propagation
    backward    linear bounds of chosen values, from where they stand to the pixels: one CROWN pass
    crown       intervals made tight by backward passes, wherever that tightens what follows
    optimised   lower slopes chosen by gradient ascent: alpha-CROWN

Source: Zhang et al. 2018 (CROWN), arXiv 1811.00866; Gowal et al. 2018 (intervals), arXiv 1810.12715; Zhang et al. 2020
(CROWN-IBP), arXiv 1906.06316; Xu et al. 2020 (general graphs), arXiv 2002.12920; Xu et al. 2021 (optimised slopes),
arXiv 2011.13824.
"""
