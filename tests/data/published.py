"""Tiny folders in the layout in which the public data sets are published."""

import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture_bytes(number: int, image_format: str = "JPEG", size: tuple[int, int] = (16, 12)) -> bytes:
    """An image that no other number gives."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def write_picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_bytes(number, {".webp": "WEBP", ".png": "PNG"}.get(path.suffix, "JPEG")))


def hpdv3_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "prompt": f"prompt number {number}",
        "choice_dist": [9, 3],
        "confidence": 0.97,
        "path1": f"images/{number}a.jpg",
        "path2": f"images/{number}b.jpg",
        "model1": "flux",
        "model2": "kolors",
    }
    return {**row, **changes}


def write_hpdv3(root: Path, rows: list[dict[str, Any]], split: str = "train") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    for row in rows:
        for name in ("path1", "path2"):
            path = row.get(name)
            if path and not path.startswith(("/", "..")):
                write_picture(root / path, zlib.crc32(path.encode()))
    return root


def write_hpdv2(root: Path) -> Path:
    train = [
        {"prompt": "a cat", "file_path": ["00.jpg", "01.jpg"], "human_preference": [0, 1]},
        {"prompt": "a dog", "file_path": ["02.jpg", "03.jpg"], "human_preference": [1, 0]},
    ]
    ranking = {
        "prompt": "a house",
        "image_path": ["a.jpg", "b.jpg", "c.jpg"],
        "rank": [2, 1, 2],
        "raw_annotations": [{"rank": [3, 1, 2], "user_hash": "u"}, {"rank": [2, 1, 3], "user_hash": "v"}],
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "train.json").write_text(json.dumps(train), encoding="utf-8")
    (root / "test.json").write_text(json.dumps([ranking]), encoding="utf-8")
    for number, name in enumerate(("train/00", "train/01", "train/02", "train/03", "test/a", "test/b", "test/c")):
        write_picture(root / f"{name}.jpg", number)
    return root


def write_imagerewarddb(root: Path) -> Path:
    images = [
        # prompt_id, number, rank, overall, alignment, fidelity; the prompts' rows are mixed up
        ("p1", 0, 3, 2, 5, 1),
        ("p2", 1, 1, 6, 6, 6),
        ("p1", 2, 1, 6, 5, 7),
        ("p2", 3, 2, 5, 6, 4),
        ("p1", 4, 1, 6, 3, 7),
        ("p3", 5, 1, 7, 7, 7),
    ]
    table = pa.Table.from_pylist(
        [
            {
                "image_path": f"images/train/train_1/{number}.webp",
                "prompt_id": prompt_id,
                "prompt": f"the prompt {prompt_id}",
                "classification": "People",
                "image_amount_in_total": 3,
                "rank": rank,
                "overall_rating": overall,
                "image_text_alignment_rating": alignment,
                "fidelity_rating": fidelity,
            }
            for prompt_id, number, rank, overall, alignment, fidelity in images
        ]
    )
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, root / "metadata-train.parquet")
    for _, number, *_ in images:
        write_picture(root / f"images/train/train_1/{number}.webp", number)
    return root


def pickapic_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "are_different": True,
        "best_image_uid": f"u{number}a",
        "caption": f"caption {number}",
        "created_at": "2023-01-01",
        "has_label": True,
        "image_0_uid": f"u{number}a",
        "image_0_url": "https://dead.example/a",
        "image_1_uid": f"u{number}b",
        "image_1_url": "https://dead.example/b",
        "jpg_0": picture_bytes(2 * number),
        "jpg_1": picture_bytes(2 * number + 1),
        "label_0": 1.0,
        "label_1": 0.0,
        "model_0": "sdxl",
        "model_1": "sd2",
        "ranking_id": 1000 + number,
        "user_id": 7,
        "num_example_per_prompt": 4,
        "__index_level_0__": number,
    }
    return {**row, **changes}


def write_pickapic(root: Path, rows: list[dict[str, Any]], split: str = "validation") -> Path:
    (root / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "data" / f"{split}-00000-of-00001-abc.parquet")
    return root
