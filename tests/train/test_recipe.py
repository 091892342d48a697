"""From a stage to a model: what a new run begins with."""

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tokenizers import Tokenizer  # noqa: E402

from zhiyin.errors import UserError  # noqa: E402
from zhiyin.train import recipe, stages  # noqa: E402


@pytest.fixture(scope="module")
def pocket(repository: Path) -> Path:
    return repository / "zhiyin" / "pocket" / "checkpoint"


def test_the_packaged_weights_fit_the_packaged_recipe(repository: Path, pocket: Path) -> None:
    stage = stages.read(repository / "configs" / "pocket.toml")
    model = recipe.build(stage, Tokenizer.from_file(str(pocket / "tokenizer.json")))
    before = model.decoder.embed_tokens.weight.clone()
    recipe.start_from(model, pocket)
    from safetensors.torch import load_file

    stored = load_file(pocket / "model.safetensors")["decoder.embed_tokens.weight"]
    assert torch.equal(model.decoder.embed_tokens.weight, stored.float())
    assert not torch.equal(model.decoder.embed_tokens.weight, before)


def test_weights_of_other_sizes_are_refused(repository: Path, pocket: Path) -> None:
    stage = stages.read(repository / "configs" / "pocket.toml")
    other = replace(stage, model=replace(stage.model, encoder=replace(stage.model.encoder, num_layers=2)))
    model = recipe.build(other, Tokenizer.from_file(str(pocket / "tokenizer.json")))
    with pytest.raises(UserError, match="its sizes are not the stage's"):
        recipe.start_from(model, pocket)
