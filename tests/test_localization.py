"""The heads of localization networks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kornia.geometry.subpix import spatial_soft_argmax2d

from stn_helpers.localization import SoftArgmax

side = st.integers(1, 9)


@given(side, side, st.integers(0, 2**31 - 1))
def test_soft_argmax_is_kornias(height, width, seed):
    # kornia's normalised answer has -1 and 1 on the outermost pixel *centres* (align_corners=True); its answer in
    # pixels has no such choice in it, and (2i + 1)/n - 1 takes that to our coordinates.
    generator = torch.Generator().manual_seed(seed)
    maps = 3 * torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    pixels = spatial_soft_argmax2d(maps, normalized_coordinates=False)
    expected = (2 * pixels + 1) / torch.tensor([width, height]) - 1
    torch.testing.assert_close(SoftArgmax()(maps), expected, rtol=0, atol=1e-10)


def test_a_peak_is_found_and_a_flat_map_says_the_centre():
    maps = torch.zeros(1, 2, 5, 8)
    maps[0, 0, 1, 6] = 100.0
    points = SoftArgmax()(maps)
    torch.testing.assert_close(points[0, 0], torch.tensor([(2 * 6 + 1) / 8 - 1, (2 * 1 + 1) / 5 - 1]))
    torch.testing.assert_close(points[0, 1], torch.zeros(2))


def test_soft_argmax_gradcheck():
    maps = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps.requires_grad_()
    assert torch.autograd.gradcheck(SoftArgmax(), maps)


def test_bad_maps_are_named():
    for bad in (torch.rand(3, 4, 4), torch.zeros(1, 1, 0, 4), torch.zeros(1, 1, 4, 4).long()):
        with pytest.raises(ValueError, match="maps: wanted"):
            SoftArgmax()(bad)
