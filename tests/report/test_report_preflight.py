"""The page of a preflight: its numbers are the document's, and its names are escaped."""

import copy
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from coordcbam._support.errors import UsageError
from coordcbam.report import build_preflight


def figure(mean: float, low: float | None = None, high: float | None = None) -> dict[str, float]:
    return {"mean": mean, "low": mean if low is None else low, "high": high or mean}


def row(block: str, score: float, *, harms: bool = False, drift: float = 0.0) -> dict[str, Any]:
    names = ("std_ratio", "rms_ratio", "kept", "gradient_gain")
    place = {name: figure(0.5 + index / 100) for index, name in enumerate(names)}
    return {
        "block": block,
        "places": [{"path": path, **place} for path in ("model.16", "model.19")],
        "gain_min": 0.25,
        "gain_max": 1.75,
        "certified": block != "timm:se",
        "harms": harms,
        "drift": figure(drift),
        "score": figure(score, score - 0.01, score + 0.01) if harms else figure(score),
        "shock": figure(score - 0.8),
        "gradient_input": figure(0.4),
        "parameters": 1234,
        "flops": 5_000_000,
        "elementwise": 2_000_000,
        "latency_ms": figure(0.25),
        "latency_ratio": figure(1.125),
        "memory_bytes": 100_000,
    }


@pytest.fixture
def document() -> dict[str, Any]:
    return {
        "format": 1,
        "about": {
            "model": "runs/best<1>.pt",
            "data": "digits",
            "score": "mAP50-95(B)",
            "images": 64,
            "places": [{"path": "model.16"}, {"path": "model.19"}],
            "versions": {"torch": "2.14"},
        },
        "without": {"score": 0.8, "parameters": 2_590_000, "flops": 300_000_000, "elementwise": 1},
        "rows": [row("step3", 0.8), row("timm:se", 0.2, harms=True, drift=0.9)],
        "alone": [],
        "ranking": [
            {
                "rank": 1,
                "path": "model.19",
                "layer": "C3k2",
                "channels": 128,
                "shock": -0.5,
                "drift": 0.75,
                "gradient_share": 0.25,
                "parameters": 77.0,
                "flops": 1_000_000.0,
            }
        ],
        "verdict": "",
        "notes": ["a<b>note"],
        "units": dict.fromkeys(
            (
                *("std_ratio", "rms_ratio", "kept", "gradient_gain", "drift", "score", "shock"),
                *("flops", "elementwise", "latency_ms", "latency_ratio", "memory_bytes"),
                "gradient_share",
            ),
            "what it is",
        ),
    }


def words(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    body = text[text.index("<main>") :]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_the_numbers_are_there(document: dict[str, Any], tmp_path: Path) -> None:
    page = build_preflight(document, tmp_path / "preflight.html")
    text = words(page)
    for part in (
        "1 of 2 blocks harms this model before any training: timm:se 0.800 to 0.200.",
        "Not a bit of the outputs changes: step3.",
        "0.500 · 0.500",
        "0.530 · 0.530",
        "0.25 … 1.75 ✓",
        "0.190 … 0.210",
        "-0.600",
        "1,234 5.00 2.00 +0.25 × 1.125 100",
        "1 model.19 C3k2 128 -0.500 0.750 25 % 77 1.00",
        "a<b>note",
        "64 images",
    ):
        assert part in text, part
    assert "width: 25.0%" in page.read_text()  # 0.2 of the best, 0.8
    assert "best<1>.pt" not in page.read_text()


def test_without_a_score_outputs_speak(document: dict[str, Any], tmp_path: Path) -> None:
    document["without"]["score"] = None
    for one in document["rows"]:
        one["score"] = one["shock"] = None
    document["rows"][0]["memory_bytes"] = None
    text = words(build_preflight(document, tmp_path))
    assert "timm:se moves the outputs by 90.0 %" in text
    assert "that is left" not in text
    document["rows"][1]["drift"] = dict.fromkeys(("mean", "low", "high"), "nan")  # as JSON has it
    for one in document["rows"][1]["places"]:
        one["std_ratio"] = document["rows"][1]["drift"]
    text = words(build_preflight(document, tmp_path))
    assert "timm:se makes outputs that are not finite" in text


def test_a_score_that_is_lost_is_still_a_page(document: dict[str, Any], tmp_path: Path) -> None:
    lost = copy.deepcopy(document)
    lost["rows"][1]["score"] = lost["rows"][1]["shock"] = dict.fromkeys(
        ("mean", "low", "high"), "nan"
    )
    assert "0.800 to –" in words(build_preflight(lost, tmp_path))
    lost["without"]["score"] = "nan"
    build_preflight(lost, tmp_path)


def test_in_turkish(document: dict[str, Any], tmp_path: Path) -> None:
    text = words(build_preflight(document, tmp_path, lang="tr"))
    assert (
        "2 bloktan 1 tanesi bu modele eğitimden önce zarar veriyor: timm:se 0.800 → 0.200." in text
    )


@pytest.mark.parametrize("broken", [{}, {"about": 3}, {"about": {"places": []}, "without": {}}])
def test_another_document_is_one_line(broken: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Preflight.to_dict\(\)"):
        build_preflight(broken, tmp_path)
    assert list(tmp_path.iterdir()) == []
