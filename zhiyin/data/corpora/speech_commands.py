"""Speech Commands by its folders: yes/0a7c2a8d_nohash_0.wav; validation_list.txt and testing_list.txt.

Source: P. Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition", arXiv 1804.03209, and the
README of the archive: what stands before ``_nohash_`` is the speaker. CC BY 4.0.
"""

from pathlib import Path

from zhiyin.data import clip
from zhiyin.data.corpora.normal import lines, need
from zhiyin.data.manifest import Imported, Record
from zhiyin.errors import UserError


def read(folder: Path, _: Path) -> Imported:
    """Records of train, dev and test as the two lists divide them; background noise is left out.

    Raises:
        UserError: a list or all recordings are missing.
    """
    about = "the folder that holds validation_list.txt and a folder for each word"
    lists = {"dev": "validation_list.txt", "test": "testing_list.txt"}
    places = {line: s for s, name in lists.items() for _, line in lines(need(folder / name, "Speech Commands", about))}
    splits: dict[str, list[Record]] = {"train": [], "dev": [], "test": []}
    for audio in sorted(folder.glob("*/*_nohash_*.wav")):
        word = audio.parent.name
        record = Record(
            id=f"{word}_{audio.stem}",
            audio=audio,
            duration_s=clip.length_s(audio),
            tasks=("asr",),
            text=word.lower(),
            language="en",
            speaker=f"sc_{audio.stem.partition('_')[0]}",
            source="speech-commands",
            licence="CC-BY-4.0",
        )
        splits[places.get(f"{word}/{audio.name}", "train")].append(record)
    if not any(splits.values()):
        raise UserError(f"Speech Commands {folder}: no */*_nohash_*.wav; give {about}")
    return Imported({name: records for name, records in splits.items() if records})
