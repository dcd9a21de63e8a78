"""What an image must be to be looked at."""

import pytest
import torch

from coordcbam._support.errors import UsageError
from coordcbam.pictures import Shot

IMAGE = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": ""}, "Shot.name='': expected the image's name"),
        ({"tensor": IMAGE.byte()}, "expected a tensor of floats"),
        ({"tensor": IMAGE[0]}, r"is \(3, 8, 8\): expected \(1, C, H, W\)"),
        ({"tensor": IMAGE.repeat(2, 1, 1, 1)}, r"expected \(1, C, H, W\)"),
        ({"tensor": IMAGE[..., :0]}, r"expected \(1, C, H, W\)"),
        ({"boxes": [(0, 0, 1)]}, "expected left, top, right, bottom"),
        ({"boxes": [(0, 0, 1, float("nan"))]}, "expected left, top, right, bottom"),
        ({"boxes": [5]}, "expected left, top, right, bottom"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(wrong, said):
    with pytest.raises(UsageError, match=said) as caught:
        Shot(**{"name": "a.jpg", "tensor": IMAGE, **wrong})
    assert "\n" not in str(caught.value)


def test_boxes_are_cut_to_the_picture():
    shot = Shot(name="a", tensor=IMAGE, boxes=torch.tensor([[-0.5, 0.25, 2.0, 0.5]]))
    assert shot.boxes == ((0.0, 0.25, 1.0, 0.5),)
