"""Coffee orders of the speech pack with what a model hears of them: python scripts/coffee_orders.py PACK OUT CHECKPOINT

The pack has no transcripts of them. Ids and source are others than in the pack, so that both can be given to a stage.
"""

import sys
from dataclasses import replace
from pathlib import Path

import zhiyin
from zhiyin.data import manifest
from zhiyin.data.corpora import speech_pack
from zhiyin.evaluate.label import label


def main(pack: Path, out: Path, checkpoint: str) -> None:
    """Write train, dev and test manifests below `out`."""
    model = zhiyin.load(checkpoint).loaded
    for split in ("train", "dev", "test"):
        orders = [
            replace(record, id=f"order_{record.id}", audio=record.audio.absolute(), source="orders")
            for record in speech_pack.read(pack, split)
            if record.source == "pico_s2i"
        ]
        heard = label(orders, model, ["asr"], report=lambda record: None)
        manifest.write(out / f"{split}.jsonl", heard.records)
        print(f"{out / split}.jsonl: {heard.added} of {len(orders)} orders heard")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
