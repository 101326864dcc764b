"""Sources of scans: what is read, what is refused and why."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from neuroseg.data import ScanError, fetch, msd, open_cohort, pairs, stack_slices, template
from neuroseg.data.augment import augment
from neuroseg.data.scan import load_nifti
from neuroseg.data.volume import fit_box, load_pair, normalise, to_ras

ROOT = Path(__file__).resolve().parents[3]
RNG = np.random.default_rng(0)
IMAGE = RNG.random((30, 40, 36)).astype(np.float32)
MASK = np.zeros((30, 40, 36), np.uint8)
MASK[10:20, 12:28, 14:22] = 1


def test_fit_box_keeps_every_voxel_in_place():
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = -10, 5, 7
    for box in ((20, 56, 24), (None, 8, 60), (64, 64, 64)):
        boxed, shifted = fit_box(IMAGE, affine, box)
        place = np.argwhere(boxed > 0)[::97]
        world = nib.affines.apply_affine(shifted, place)
        before = np.round(nib.affines.apply_affine(np.linalg.inv(affine), world)).astype(int)
        np.testing.assert_array_equal(boxed[tuple(place.T)], IMAGE[tuple(before.T)])
        assert boxed.shape == tuple(n if side is None else side for n, side in zip(IMAGE.shape, box))


def test_fit_box_far_outside_is_empty():
    boxed, _ = fit_box(IMAGE, np.eye(4), (8, 8, 8), centre=(500, 0, 0))
    assert not boxed.any()


def test_normalise_maps_percentiles_to_the_unit_interval():
    out = normalise(np.arange(1001, dtype=np.float32))
    assert out.min() == 0 and out.max() == 1 and out.dtype == np.float32
    assert out[500] == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(ScanError, match="constant"):
        normalise(np.ones((4, 4)))


def test_las_and_thick_slices_come_to_ras_at_1_mm(write_nifti):
    affine = np.diag([-1.0, 1, 2, 1])
    path = write_nifti("las.nii.gz", IMAGE, affine)
    out = to_ras(load_nifti(path), order=1)
    assert nib.aff2axcodes(out.affine) == ("R", "A", "S")
    np.testing.assert_allclose(nib.affines.voxel_sizes(out.affine), 1)
    assert out.shape == (30, 40, 71)
    np.testing.assert_allclose(np.asarray(out.dataobj)[:, :, ::2], IMAGE[::-1], atol=1e-6)


BROKEN = {
    "4D image": (np.stack([IMAGE, IMAGE], -1), MASK, None, "4D image"),
    "2D image": (IMAGE[0], MASK, None, "2D image"),
    "NaN": (np.where(IMAGE < 0.01, np.nan, IMAGE), MASK, None, "NaN or infinite"),
    "shapes": (IMAGE[:-1], MASK, None, r"\(29, 40, 36\), mask \(30, 40, 36\)"),
    "empty mask": (IMAGE, MASK * 0, None, "mask is empty"),
    "spacing": (IMAGE, MASK, np.diag([1.0, 1, 50, 1]), "voxel size .* 50"),
    "parallel axes": (IMAGE, MASK, np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "span space"),
    "constant": (IMAGE * 0 + 3, MASK, None, "constant"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pairs_are_refused_with_their_reason(name, write_nifti):
    image, mask, affine, reason = BROKEN[name]
    paths = write_nifti("i.nii", image.astype(np.float32), affine), write_nifti("m.nii", mask, affine)
    with pytest.raises(ScanError, match=reason):
        load_pair("s", *paths, box=(None, 56, 48))


def test_unreadable_and_missing_files_are_named(tmp_path):
    (tmp_path / "torn.nii.gz").write_bytes(b"\x1f\x8b not really")
    (tmp_path / "text.nii").write_text("hello")
    for name, reason in (
        ("torn.nii.gz", "cannot be read"),
        ("text.nii", "cannot be read"),
        ("no.nii", "no such"),
    ):
        with pytest.raises(ScanError, match=f"{name}.*{reason}"):
            load_nifti(tmp_path / name)


def test_truncated_file_is_refused(write_nifti):
    path = write_nifti("whole.nii.gz", IMAGE)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ScanError, match=r"whole\.nii\.gz"):
        load_nifti(path)


def test_different_grids_are_refused(write_nifti):
    moved = np.eye(4)
    moved[0, 3] = 9
    with pytest.raises(ScanError, match="different affines"):
        load_pair("s", write_nifti("i.nii", IMAGE), write_nifti("m.nii", MASK, moved), box=(None, 56, 48))


def test_box_must_divide_by_four():
    with pytest.raises(ScanError, match="divide by 4"):
        load_pair("s", Path("i"), Path("m"), box=(24, 50, 48))


@pytest.fixture
def decathlon(write_nifti, tmp_path):
    """A Decathlon folder: one good case with both labels, one broken, one without label, one stray file."""
    labels = MASK.copy()
    labels[10:14] *= 2
    root = tmp_path / fetch.NAME
    for name, image, mask in (("good", IMAGE, labels), ("bad", IMAGE, MASK * 0), ("bare", IMAGE, None)):
        write_nifti(f"{fetch.NAME}/imagesTr/{name}.nii.gz", image)
        if mask is not None:
            write_nifti(f"{fetch.NAME}/labelsTr/{name}.nii.gz", mask)
    write_nifti(f"{fetch.NAME}/imagesTr/stray.nii.gz", IMAGE)
    cases = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("good", "bad", "bare")]
    (root / "dataset.json").write_text(json.dumps({"training": cases}))
    (root / "imagesTr" / "._good.nii.gz").write_bytes(b"resource fork")
    return root


def test_decathlon(decathlon):
    cohort = open_cohort(str(decathlon))
    (subject,) = cohort.subjects
    assert subject.id == "good" and subject.image.shape == (30, 56, 48)
    assert subject.mask.sum() == MASK.sum()  # labels 1 and 2 are both hippocampus
    assert {r.id: r.reason for r in cohort.rejects} == {
        "bad": "mask is empty",
        "bare": "no label",
        "stray": "not listed in dataset.json",
    }
    images, masks = stack_slices(cohort.subjects)
    assert images.shape == masks.shape == (30, 1, 56, 48)


def test_pairs_crop_the_right_hippocampus(write_nifti, tmp_path):
    image = RNG.random((90, 100, 90)).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    left, right = (slice(10, 20), slice(40, 60), slice(30, 40)), (slice(60, 72), slice(41, 60), slice(30, 42))
    mask[left], mask[right] = 1, 1
    write_nifti("images/a.nii.gz", image)
    write_nifti("masks/a.nii.gz", mask)
    write_nifti("images/b.nii", image)
    cohort = open_cohort(str(tmp_path))
    (subject,) = cohort.subjects
    assert subject.image.shape == (24, 56, 48)
    assert subject.mask.sum() == mask[right].sum()
    middle = nib.affines.apply_affine(subject.affine, np.argwhere(subject.mask).mean(0))
    np.testing.assert_allclose(middle, np.argwhere(mask[right]).mean(0) + [60, 41, 30], atol=1e-6)
    assert [(r.id, r.reason) for r in cohort.rejects] == [("b", "no label")]


def test_a_broken_up_right_side_is_kept_whole():
    mask = np.zeros((80, 30, 30), np.uint8)
    mask[15:25, 5:20, 5:12] = 1
    mask[50:58, 5:20, 5:12], mask[59:62, 5:20, 5:12] = 1, 1  # two pieces
    centre, kept = pairs.locate_right(mask)
    assert centre == (56, 12, 8) and kept.sum() == mask[40:].sum()


def test_one_side_alone():
    mask = np.zeros((80, 30, 30), np.uint8)
    mask[50:58, 5:20, 5:12] = 1
    assert pairs.locate_right(mask)[1].sum() == mask.sum()
    with pytest.raises(ScanError, match="the left hippocampus alone"):
        pairs.locate_right(mask[::-1])


def test_flat_and_damaged_files_are_refused(write_nifti):
    with pytest.raises(ScanError, match="2D image"):
        load_nifti(write_nifti("flat.nii", IMAGE[:, :, :1]))
    path = write_nifti("damaged.nii.gz", IMAGE)
    content = bytearray(path.read_bytes())
    content[3000:3400] = bytes(400)
    path.write_bytes(content)
    with pytest.raises(ScanError, match=r"damaged\.nii\.gz: cannot be read"):
        load_nifti(path)


def test_unknown_sources_are_named(tmp_path):
    with pytest.raises(ScanError, match="no such folder"):
        open_cohort(str(tmp_path / "nowhere"))
    with pytest.raises(ScanError, match="neither a Decathlon folder"):
        open_cohort(str(tmp_path))
    with pytest.raises(ScanError, match="positive number"):
        open_cohort("template:x")


def test_template_cohort_is_seeded_and_deformed():
    first, again = template.cohort(2, seed=5), template.cohort(2, seed=5)
    untouched = template.subject()
    for a, b in zip(first.subjects, again.subjects):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.mask, b.mask)
        assert 0.5 < a.mask.sum() / untouched.mask.sum() < 1.7
        assert (a.mask != untouched.mask).any()
    assert (first.subjects[0].mask != first.subjects[1].mask).any()
    assert untouched.image.shape == (24, 56, 48) and 3000 < untouched.mask.sum() < 6000
    right_of_midline = nib.affines.apply_affine(untouched.affine, np.argwhere(untouched.mask))[:, 0]
    assert (right_of_midline > 0).all()


class _Ranges(SimpleHTTPRequestHandler):
    """Answers byte ranges, as the real server does, and remembers them."""

    asked: list[str | None] = []

    def do_GET(self):
        body = Path(self.translate_path(self.path)).read_bytes()
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def archive(decathlon, tmp_path):
    """The data set as a tar on a local server: (url, md5, bytes)."""
    tar = tmp_path / "served" / "Task04_Hippocampus.tar"
    tar.parent.mkdir()
    with tarfile.open(tar, "w") as file:
        file.add(decathlon, arcname=fetch.NAME)
    _Ranges.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Ranges, directory=str(tar.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    content = tar.read_bytes()
    yield f"http://127.0.0.1:{server.server_port}/{tar.name}", hashlib.md5(content).hexdigest(), content
    server.shutdown()
    server.server_close()


def test_fetch_downloads_checks_and_unpacks(archive, tmp_path):
    url, md5, content = archive
    seen: list[tuple[int, int]] = []
    folder = fetch.fetch(tmp_path / "data", url=url, known_hash=f"md5:{md5}", progress=lambda *p: seen.append(p))
    assert seen[-1] == (len(content), len(content))
    assert len(msd.read(folder).subjects) == 1
    asked = len(_Ranges.asked)
    assert fetch.fetch(tmp_path / "data", url=url, known_hash=f"md5:{md5}") == folder
    assert len(_Ranges.asked) == asked  # there already


def test_two_fetches_at_once_both_end_right(archive, tmp_path):
    """In processes and threads: one downloads, the others wait and find it there."""
    url, md5, _ = archive
    call = f"fetch(Path('data'), url={url!r}, known_hash='md5:{md5}')"
    code = f"from pathlib import Path; from neuroseg.data.fetch import fetch; {call}"
    other = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    with ThreadPoolExecutor(3) as pool:
        ended = [pool.submit(fetch.fetch, tmp_path / "data", url=url, known_hash=f"md5:{md5}") for _ in range(3)]
        assert {each.result() for each in ended} == {tmp_path / "data" / fetch.NAME}
    assert other.wait(120) == 0
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [fetch.NAME, f"{fetch.NAME}.tar"]
    assert len(_Ranges.asked) == 1


def test_fetch_resumes(archive, tmp_path):
    url, md5, content = archive
    part = tmp_path / "data" / "Task04_Hippocampus.tar.part"
    part.parent.mkdir()
    part.write_bytes(content[:5000])
    folder = fetch.fetch(part.parent, url=url, known_hash=f"md5:{md5}")
    assert _Ranges.asked == ["bytes=5000-"]
    assert len(msd.read(folder).subjects) == 1 and not part.exists()


def test_fetch_refuses_a_wrong_archive(archive, tmp_path):
    url, _, _ = archive
    with pytest.raises(ValueError, match="does not match the known hash"):
        fetch.fetch(tmp_path / "data", url=url, known_hash="md5:" + "0" * 32)
    assert not list((tmp_path / "data").iterdir())


def test_augmentation_moves_image_and_mask_alike():
    torch.manual_seed(0)
    y, x = np.mgrid[:56, :48]
    disc = torch.from_numpy(((y - 26) ** 2 + (x - 25) ** 2 < 100).astype(np.float32)).expand(40, 1, -1, -1)
    images, masks = augment(disc.clone(), disc)
    assert set(masks.unique().tolist()) == {0.0, 1.0} and float(images.min()) >= 0 and float(images.max()) <= 1
    overlap = ((images > 0.5) & (masks > 0)).sum((1, 2, 3)) / masks.sum((1, 2, 3))
    assert float(overlap.min()) > 0.95  # the image went where the mask went
    assert float((masks - disc).abs().sum((1, 2, 3)).min()) > 0 and not torch.equal(images[0], images[1])
    area = masks.sum((1, 2, 3)) / disc.sum((1, 2, 3))
    assert float(area.min()) > 0.75 and float(area.max()) < 1.3  # scaled by 10 percent at most


def test_zeros_of_a_stripped_brain_do_not_count():
    rng = np.random.default_rng(0)
    tissue = rng.uniform(100, 200, (10, 10, 10))
    plain = normalise(tissue)
    framed = np.zeros((14, 14, 14))
    framed[2:12, 2:12, 2:12] = tissue
    np.testing.assert_allclose(normalise(framed)[2:12, 2:12, 2:12], plain, atol=1e-6)
    assert (normalise(framed)[0] == 0).all()
    few = tissue.copy()
    few.flat[:3] = 0  # dark voxels of a scan with its background are voxels like others
    low, high = np.percentile(few, [1, 99])
    np.testing.assert_allclose(normalise(few), np.clip((few - low) / (high - low), 0, 1), atol=1e-6)
