"""The tokenizer of a decoder folder, as the JSON text of Hugging Face tokenizers, and its end tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from zhiyin.errors import UserError
from zhiyin.model import files
from zhiyin.model.convert import parts, sentencepiece

GENERATION, SETTINGS = "generation_config.json", "tokenizer_config.json"


def read(folder: Path, num_rows: int, where: str) -> str:
    """The tokenizer: `tokenizer.json`, else made from SentencePiece's `tokenizer.model`.

    Args:
        folder: a Hugging Face model folder.
        num_rows: of the model's embedding table, within which every token must lie.
        where: begins the line of an error.

    Raises:
        UserError: there is none, it is damaged, or it has tokens the model has not.
    """
    path, pieces = folder / files.TOKENIZER, folder / sentencepiece.FILE
    if path.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises the bare class
            raise UserError(f"{where}: {path.name} is damaged ({error}); copy it again") from error
    elif pieces.is_file():
        tokenizer = sentencepiece.convert(pieces, where)
        _add_declared(tokenizer, folder, where)
    else:
        raise UserError(
            f"{where}: no {path.name} and no {pieces.name}; copy them too, or where transformers is installed write one"
            " with AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    last = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if last >= num_rows:
        raise UserError(
            f"{where}: the tokenizer has token {last}, the model {num_rows} rows; they do not belong together"
        )
    return tokenizer.to_str()


def end_tokens(folder: Path, record: Mapping[str, Any], tokenizer: str, where: str) -> tuple[int, ...]:
    """Tokens that end a reply: of `generation_config.json` where it names some, else of `config.json`.

    Raises:
        UserError: neither names one, or it is none of the tokenizer's.
    """
    path = folder / GENERATION
    generation = parts.read_json(path, where) if path.is_file() else {}
    found = generation.get("eos_token_id", record.get("eos_token_id"))
    seen = found if isinstance(found, list) else [found]
    ids = [token for token in seen if isinstance(token, int) and not isinstance(token, bool)]
    if not ids or len(ids) != len(seen):
        raise UserError(
            f"{where}: eos_token_id is {found!r}; write the id of the token that ends a reply to config.json"
        )
    known = Tokenizer.from_str(tokenizer)
    for token in ids:
        if token < 0 or known.id_to_token(token) is None:
            raise UserError(f"{where}: eos_token_id {token} is no token of its tokenizer; they do not belong together")
    return tuple(ids)


def _add_declared(tokenizer: Tokenizer, folder: Path, where: str) -> None:
    """Tokens of `tokenizer_config.json`: pieces that text is searched for first, and further ones after the pieces."""
    path = folder / SETTINGS
    declared = (parts.read_json(path, where) if path.is_file() else {}).get("added_tokens_decoder") or {}
    try:
        tokens = sorted(
            (int(number), str(fields["content"]), bool(fields.get("special"))) for number, fields in declared.items()
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}: added_tokens_decoder in {path.name} is damaged ({error!r}); copy it again"
        ) from error
    for number, content, special in tokens:
        tokenizer.add_tokens([AddedToken(content, normalized=False, special=special)])
        if tokenizer.token_to_id(content) != number:
            raise UserError(
                f"{where}: {path.name} says '{content}' is token {number}, {sentencepiece.FILE} says otherwise"
            )
