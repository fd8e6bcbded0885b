"""A pool of float16 images for the accuracy benchmark."""

import blosc2
import numpy as np
from half_pool import store_half


def test_the_images_of_the_pool_alone_are_float16(tmp_path):
    full, half = tmp_path / "full", tmp_path / "half"
    (full / "cases").mkdir(parents=True)
    image = np.linspace(-3, 3, 2 * 4 * 5 * 6, dtype=np.float32).reshape(2, 4, 5, 6)
    for case in ("a", "b"):
        cut = {"chunks": (1, 4, 5, 6), "blocks": (1, 2, 5, 6)}
        blosc2.asarray(image, urlpath=str(full / "cases" / f"{case}.b2nd"), **cut)
        blosc2.asarray(np.ones((1, 4, 5, 6), np.int8), urlpath=str(full / "cases" / f"{case}_seg.b2nd"))
        (full / "cases" / f"{case}.pkl").write_text(case)
    (full / "plans.json").write_text("{}")
    for _ in range(2):  # also where an earlier attempt was cut off
        store_half(full, half, ["b"])
    files = {file.relative_to(full) for file in full.rglob("*")}
    assert files == {file.relative_to(half) for file in half.rglob("*")}
    stored = blosc2.open(str(half / "cases" / "b.b2nd"), mode="r")
    assert stored.dtype == np.float16 and (stored.chunks, stored.blocks) == ((1, 4, 5, 6), (1, 2, 5, 6))
    assert np.array_equal(stored[:], image.astype(np.float16))
    others = files - {(full / "cases" / "b.b2nd").relative_to(full), (full / "cases").relative_to(full)}
    assert all((half / file).resolve() == full / file for file in others)
