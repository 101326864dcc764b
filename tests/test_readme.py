"""What README.md, docs and the model card say was measured is in benchmarks/results, and their links lead somewhere."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import zoo
from neuroseg.pretrained import FOLDER as PRETRAINED
from tests.measured import BENCHMARKS, CARD, README, RESULTS, ROOT, result

PAGES = [
    *(ROOT / name for name in ("README.md", "FORMAT.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    PRETRAINED / "CARD.md",
]
README_LINES = 200


def test_the_sigma_delta_network():
    found, page = result("sigma_delta"), (ROOT / "docs" / "files.md").read_text()
    spiking, graded = found["integrate-and-fire"], found["sigma-delta"]
    assert spiking["differing in Lava"] == graded["differing in Lava"] == 0 and graded["timesteps"] == 1
    for said in (
        f"agrees to {graded['agreement with the ANN']:.1%}".replace("%", " %"),
        f"to {spiking['agreement with the ANN']:.1%} as".replace("%", " %"),
        f"{graded['messages'] / 1000:.0f} thousand",
        f"{spiking['messages'] / 1000:.0f} thousand spikes",
    ):
        assert said in " ".join(page.split()), said


def test_what_the_demo_prints():
    report = result("demo")
    for layer in report["spikes"]["layers"]:
        counts = [f"{layer[key]:,}" for key in ("neurons", "software", "hardware", "mismatched")]
        assert _cells(layer["name"]) == [layer["name"], *counts, f"{layer['rate']:.3f}"]
    stages = ("ann", "finetuned", "quantized", "hardware")
    for dice in ("3d", "2d"):
        assert _cells(dice.upper()) == [dice.upper(), *(f"{report['dice'][stage][dice]:.4f}" for stage in stages)]
    assert f"equal: {report['spikes']['total']:,} spikes, none differs" in README
    assert f"{report['dice']['hardware']['3d']:.3f}" in CARD


def test_how_broken_files_are_borne():
    found = result("fuzz")
    read = found["read"] + found["read_but_not_for_loihi"]
    assert f"{read:,} read, {found['refused']:,} refused, {len(found['failed'])} failed" in BENCHMARKS
    assert f"| {found['files']:,} network files" in BENCHMARKS
    again = result("fuzz-again")
    read = again["read"] + again["read_but_not_for_loihi"]
    (paused,) = again["failed"]
    said = f"another {again['files']:,} were read (`--first 500000 --jobs 2`, `fuzz-again.json`): {read:,} read, "
    said += f"{again['refused']:,} refused, 0 failed, but for seed {paused['seed']}, which ran out"
    assert said in BENCHMARKS.replace("\n", " ")


def test_what_the_benchmarks_measured():
    lava, reference, finetune = result("lava"), result("reference"), result("finetune")
    scaling, third_party, train = result("scaling"), result("third_party"), result("train")
    faster = train["pytorch_over_float32"]
    assert {found.pop("machine") for found in (lava, reference, finetune, scaling, third_party, train)} == {
        re.search(r"one machine \((.*?)\), whose", BENCHMARKS.replace("\n", " "))[1]
    }
    fits = ", ".join(f"{scaling['fits'][x]['straight_line_r2']:.3f}" for x in ("timesteps", "slices", "spikes"))
    assert _ratios() == [
        f"{lava['stock_over_fused']:.0f} times faster",
        f"{lava['fused_over_floor']:.2f} times the floor",
        f"{lava['process_a_layer_over_fused']:.1f} times faster",
        f"{lava['stock_over_fast']:.1f} times faster",
        f"{lava['subject_ratio']:.0f} times faster",
        f"{reference['reference_over_stock']:.0f} times more",
        *(
            f"{finetune[f'{peer}_over_neuroseg']:.1f} times faster, {finetune[f'memory_of_{peer}']:.2f} of its memory"
            for peer in ("spikingjelly", "snntorch")
        ),
        f"{finetune['neuroseg_over_own_convolutions']:.2f} times as long",
        f"{finetune['neuroseg_over_float32_convolutions']:.2f} times as long",
        f"{faster:.1f} times faster, in bfloat16 {faster * train['float32_over_bfloat16']:.1f} times",
        f"R² {fits}",
        f"every spike equal ({sum(row['spikes'] for row in third_party.values()):,})",
    ]
    assert lava["equal"] and reference["equal"]
    assert all(row["pytorch_equals_reference"] and row["reference_equals_lava"] for row in third_party.values())


def test_training():
    page, found = (ROOT / "docs" / "machines.md").read_text(), result("train")
    assert f"A step takes {found['float32_over_bfloat16']:.1f} times less" in page


def test_the_engines():
    found, page = result("engines"), " ".join(BENCHMARKS.split())
    assert found["equal"] and abs(sum(found["share_of_layers"].values()) - 1) < 0.01
    ratios = f"{found['reference_over_fast']:.1f} times less than the reference, and {found['fast_over_ann']:.1f} times"
    assert f"takes the fast engine {ratios} as long as the ANN itself" in page
    others = found["peers_over_fast"]
    assert f"SpikingJelly takes {others['spikingjelly']:.1f} times as long as the fast engine" in page
    assert f"by snnTorch {others['snntorch']:.1f}, by lava-dl's SLAYER {others['slayer']:.0f} times" in page
    assert f"takes {found['validate_over_ann']:.0f} ANNs" in page
    assert f"lie {found['lava']['seconds_beyond_steps']:.1f} s" in page
    commands = found["seconds_of_commands"]
    assert f"takes {commands['--help']:.2f} s, `inspect` {commands['inspect FILE.net']:.2f} s" in page
    avx2 = result("engines-avx2")
    ratios = f"{avx2['reference_over_fast']:.1f} times less, and {avx2['fast_over_ann']:.1f} times as long"
    assert f"(AVX2 alone, an earlier commit) {ratios}" in page
    assert f"A fused step takes {found['lava']['shared_over_floor']:.2f} of a floor" in page
    number = {2: "two", 4: "four"}
    processes, copies = (number[found["lava"][name]] for name in ("processes", "copies_in_a_process"))
    said = f"each of {processes} processes runs {copies} copies"
    assert said in page and f"it takes {found['lava']['one_copy_over_floor']:.2f} (" in page
    assert f"({avx2['lava']['shared_over_floor']:.2f} on the other processor, before" in page


def test_the_page_of_public_models():
    rows = [zoo.Row(**row) for row in json.loads((RESULTS / "zoo.json").read_text())]
    assert zoo.table(rows) in (ROOT / "docs" / "zoo.md").read_text()
    assert not any(row.reference is False or row.lava is False for row in rows)
    assert f"Of {len(rows)} public models {sum(bool(row.converts) for row in rows)} convert unedited" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):  # https: and the like are not looked up
            path, _, heading = target.partition("#")
            assert not heading, f"{page.name}: {target}: links go to pages, not to headings"
            assert (page.parent / path).resolve().is_relative_to(ROOT) and (page.parent / path).exists(), target


def test_the_readme_is_read_in_five_minutes():
    assert len(README.splitlines()) < README_LINES
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= set(re.findall(r"\]\((.*?)\)", README))


def _ratios() -> list[str]:
    """The last column of the table of benchmarks, but for broken files."""
    rows = [line for line in BENCHMARKS.splitlines() if line.startswith("| ")]
    assert rows[0] == "| command | what | against | ratio |" and "benchmarks.fuzz" in rows[-1]
    return [row.strip("| ").split(" | ")[-1] for row in rows[1:-1]]


def _cells(name: str) -> list[str]:
    (line,) = [line for line in README.splitlines() if line.strip().startswith(f"│ {name} ")]
    return [cell.strip() for cell in line.strip(" │").split("│")]
