"""Ctrl-C in the middle of a long command, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from tests.tiny_models import save_tiny_model


def test_an_interruption_ends_with_130_and_keeps_what_was_judged(tmp_path: Path):
    base = save_tiny_model("internvl", tmp_path / "base")
    for name in ("0.png", "1.png"):
        Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    row = {"prompt": "a scene", "candidate": "0.png", "reference_image": "1.png"}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row | {"id": str(i)}) + "\n" for i in range(5_000)))
    out = tmp_path / "judged.jsonl"
    # Whoever starts the tests in the background may have made SIGINT ignored, which is inherited.
    program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from rewarddance.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = ("score", base, "--manifest", tmp_path / "rows.jsonl", "--out", out, "--batch-size", "1")
    environment = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)], stderr=subprocess.PIPE, env=environment
    ) as process:
        patience = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < patience and not (out.exists() and out.stat().st_size):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)

    assert (process.returncode, stderr) == (130, b"")
    lines = out.read_bytes().splitlines(keepends=True)
    assert 0 < len(lines) < 5_000
    assert [json.loads(line)["id"] for line in lines] == [str(number) for number in range(len(lines))]
