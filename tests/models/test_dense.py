"""Activations over an image: against the network written as a torch module, and where on the image they lie."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lite_network import Network
from pictures import photos
from PIL import Image

from datasetops.models.dense import DenseLite0, doubled, in_threads, scaled_size
from datasetops.models.efficientnet_lite import MAPS, _weights_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("maps")


@pytest.fixture(scope="module")
def dense(folder: Path) -> DenseLite0:
    return DenseLite0(folder)


def test_the_maps_are_those_of_the_network(dense: DenseLite0) -> None:
    import torch

    network = Network()
    network.load_state_dict(torch.load(_weights_file(), weights_only=True))
    network.eval()
    photo = photos()[0].crop((0, 0, 320, 200))
    pixels = np.asarray(photo.resize((160, 96), Image.Resampling.BILINEAR))
    expected: dict[str, Any] = {}
    with torch.inference_mode():
        scaled = torch.from_numpy(((pixels.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None].copy())
        x = torch.nn.functional.relu6(network._bn0(network._conv_stem(scaled)))
        for number, block in enumerate(network._blocks):
            x, wide = block(x)
            expected |= {name: wide if tap[1] else x for name, tap in MAPS.items() if tap[0] == number}
    for name, found in zip(MAPS, dense.maps(photo, list(MAPS), 160), strict=True):
        _, _, stride, channels = MAPS[name]
        assert found.shape == (96 // stride, 160 // stride, channels)
        np.testing.assert_allclose(found, expected[name][0].permute(1, 2, 0).numpy(), atol=2e-4)


def test_cells_lie_where_the_pixels_are(dense: DenseLite0) -> None:
    plain = Image.new("RGB", (256, 128), (127, 127, 127))
    marked = plain.copy()
    marked.paste((255, 0, 0), (192, 32, 208, 48))
    change = np.abs(dense.cells(marked, 256) - dense.cells(plain, 256))
    assert change.shape == (16, 32, 424)
    row, column = np.unravel_index(change[..., :40].sum(axis=2).argmax(), (16, 32))
    assert (row, column) in {(4, 24), (4, 25), (5, 24), (5, 25)}
    assert change[:, :4].max() < 0.5 * change[:, 22:28].max()


@given(width=st.integers(1, 5000), height=st.integers(1, 5000), side=st.integers(32, 1200))
def test_sizes_are_multiples_of_32_and_near_the_aspect(width: int, height: int, side: int) -> None:
    found = scaled_size(width, height, side)
    assert all(one % 32 == 0 and one >= 32 for one in found)
    assert abs(max(found) - side) <= 16
    for one, length in zip(found, (width, height), strict=True):
        assert one == 32 or abs(one - length * side / max(width, height)) <= 16


def test_a_side_that_no_cell_fits_in_is_refused() -> None:
    with pytest.raises(ValueError, match="side: expected at least 32, got 31"):
        scaled_size(100, 100, 31)


def test_doubling_is_what_torch_does() -> None:
    import torch

    cells = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32)
    planes = torch.from_numpy(cells).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(planes, scale_factor=2, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(doubled(cells), expected[0].permute(1, 2, 0).numpy(), atol=1e-6)


@pytest.mark.parametrize("jobs", [1, 3])
def test_work_in_threads_keeps_order_and_stays_bounded(jobs: int) -> None:
    started: list[int] = []
    lock = threading.Lock()

    def read(row: int) -> int:
        with lock:
            started.append(row)
        return 10 * row

    done = []
    for row, result in in_threads(read, lambda row, content: content + row, range(50), jobs):
        done.append((row, result))
        with lock:
            assert len(started) <= len(done) + 3 * jobs
    assert done == [(row, 11 * row) for row in range(50)]


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    def read(row: int) -> int:
        if row == 3:
            raise OSError("gone")
        return row

    with pytest.raises(OSError, match="gone"):
        list(in_threads(read, lambda row, content: content, range(9), 2))
