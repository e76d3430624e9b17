import io

import numpy as np
import torch
from PIL import Image

from audit.toolkit.images import encode_png, enlarged


def test_pixels_are_repeated_as_often_as_they_fit():
    pixels = torch.tensor([[[0.0, 1.0]]])
    assert enlarged(pixels, 5).tolist() == [[[0, 0, 1, 1], [0, 0, 1, 1]]]
    assert torch.equal(enlarged(pixels, 1), pixels)
    assert np.asarray(Image.open(io.BytesIO(encode_png(enlarged(pixels, 4))))).tolist() == [[0, 0, 255, 255]] * 2
