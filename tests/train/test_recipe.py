"""From a stage to a model: what a new run begins with."""

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tokenizers import Tokenizer  # noqa: E402

from zhiyin.errors import UserError  # noqa: E402
from zhiyin.model import checkpoint  # noqa: E402
from zhiyin.train import recipe, stages  # noqa: E402


@pytest.fixture(scope="module")
def pocket(repository: Path) -> Path:
    return repository / "zhiyin" / "pocket" / "checkpoint"


def test_the_packaged_weights_fit_the_packaged_recipe(repository: Path, pocket: Path) -> None:
    stage = stages.read(repository / "configs" / "pocket.toml")
    assert stage.model is not None
    config = recipe.sizes(stage.model, Tokenizer.from_file(str(pocket / "tokenizer.json")))
    model = recipe.build(config, seed=1)
    before = model.decoder.embed_tokens.weight.clone()
    recipe.start_from(model, pocket)
    from safetensors.torch import load_file

    stored = load_file(pocket / "model.safetensors")["decoder.embed_tokens.weight"]
    assert torch.equal(model.decoder.embed_tokens.weight, stored.float())
    assert not torch.equal(model.decoder.embed_tokens.weight, before)


def test_weights_of_other_sizes_are_refused(repository: Path, pocket: Path) -> None:
    stage = stages.read(repository / "configs" / "pocket.toml")
    assert stage.model is not None
    other = replace(stage, model=replace(stage.model, encoder=replace(stage.model.encoder, num_layers=2)))
    with pytest.raises(UserError, match="its sizes are not the stage's"):
        recipe.begin(other, Tokenizer.from_file(str(pocket / "tokenizer.json")), pocket)


def test_a_part_can_begin_anew(repository: Path, pocket: Path) -> None:
    tokenizer = Tokenizer.from_file(str(pocket / "tokenizer.json"))
    model, _ = checkpoint.load(pocket)
    weights = model.state_dict()
    stage = replace(stages.read(repository / "configs" / "pocket.toml"), model=None)
    made = recipe.begin(replace(stage, fresh=("projector.out",)), tokenizer, pocket).state_dict()
    others = {name for name in weights if not torch.equal(made[name], weights[name])}
    assert others == {"projector.out.weight", "projector.out.bias"}


def test_a_stage_without_sizes_takes_those_of_the_checkpoint(repository: Path, pocket: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(pocket / "tokenizer.json"))
    stage = replace(stages.read(repository / "configs" / "pocket.toml"), model=None)
    assert recipe.begin(stage, tokenizer, pocket).config == checkpoint.load(pocket)[0].config
    with pytest.raises(UserError, match="--from"):
        recipe.begin(stage, tokenizer, None)
    model, spec = checkpoint.load(pocket)
    model.config = replace(model.config, family="osum")
    checkpoint.save(tmp_path / "osum", model, spec, pocket / "tokenizer.json")
    with pytest.raises(UserError, match="its family is 'osum'"):
        recipe.begin(stage, tokenizer, tmp_path / "osum")
