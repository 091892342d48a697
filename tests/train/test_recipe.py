"""From a stage to a model: what a new run begins with."""

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tokenizers import Tokenizer  # noqa: E402

from zhiyin import cli_recipe  # noqa: E402
from zhiyin.data.examples import Example  # noqa: E402
from zhiyin.errors import UserError  # noqa: E402
from zhiyin.model import checkpoint  # noqa: E402
from zhiyin.train import recipe, stages  # noqa: E402
from zhiyin.train.quick import QuickEvaluation  # noqa: E402


@pytest.fixture(scope="module")
def pocket(repository: Path) -> Path:
    return repository / "zhiyin" / "pocket" / "checkpoint"


def test_the_packaged_encoder_fits_the_recipe(repository: Path, pocket: Path) -> None:
    from safetensors.torch import load_file

    stage = stages.read(repository / "configs" / "pocket.toml")
    model = recipe.begin(stage, Tokenizer.from_file(str(pocket / "tokenizer.json")), pocket)
    stored = load_file(pocket / "model.safetensors")
    made = model.state_dict()
    assert all(torch.equal(made[name], stored[name].float()) for name in stored if name.startswith("encoder."))
    assert not torch.equal(made["decoder.embed_tokens.weight"], stored["decoder.embed_tokens.weight"].float())
    bare = replace(stage.spec, label_vectors=0)  # the packaged model has one such vector
    again = replace(stage, fresh=("projector",), model=None, spec=bare)
    decoder = recipe.begin(again, Tokenizer.from_file(str(pocket / "tokenizer.json")), pocket).decoder
    assert torch.equal(decoder.embed_tokens.weight, stored["decoder.embed_tokens.weight"].float())


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
    stage = stages.read(repository / "configs" / "pocket.toml")
    stage = replace(stage, model=None, spec=replace(stage.spec, label_vectors=0))
    made = recipe.begin(replace(stage, fresh=("projector.out",)), tokenizer, pocket).state_dict()
    others = {name for name in weights if not torch.equal(made[name], weights[name])}
    assert others == {"projector.out.weight", "projector.out.bias"}


def test_a_stage_without_sizes_takes_those_of_the_checkpoint(repository: Path, pocket: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(pocket / "tokenizer.json"))
    stage = stages.read(repository / "configs" / "pocket.toml")
    stage = replace(stage, model=None, spec=replace(stage.spec, label_vectors=0))
    assert recipe.begin(stage, tokenizer, pocket).config == checkpoint.load(pocket)[0].config
    with pytest.raises(UserError, match="--from"):
        recipe.begin(stage, tokenizer, None)
    model, spec = checkpoint.load(pocket)
    model.config = replace(model.config, family="osum")
    checkpoint.save(tmp_path / "osum", model, spec, pocket / "tokenizer.json")
    with pytest.raises(UserError, match="its family is 'osum'"):
        recipe.begin(stage, tokenizer, tmp_path / "osum")


def test_settings_about_vectors_that_the_model_lacks_are_refused(repository: Path, pocket: Path) -> None:
    stage = stages.read(repository / "configs" / "pocket.toml")
    assert stage.model is not None
    tokenizer = Tokenizer.from_file(str(pocket / "tokenizer.json"))
    bare = replace(stage.model.projector, voice_mels=None, voice_stats="spectrum", pace=False)
    plain = replace(stage, model=replace(stage.model, projector=bare), spec=replace(stage.spec, label_vectors=0))
    recipe.begin(plain, tokenizer, None)
    for wrong in (
        replace(plain, spec=replace(plain.spec, label_vectors=1)),
        replace(plain, mix=replace(plain.mix, voice_only_share=0.5)),
        replace(plain, optimizer=replace(plain.optimizer, voice_weight=0.5)),
    ):
        with pytest.raises(UserError, match="the model has 0 vectors of the whole utterance; set model"):
            recipe.begin(wrong, tokenizer, None)
    with pytest.raises(UserError, match="label_vectors is 3, and the model has 2 vectors"):
        recipe.begin(replace(stage, spec=replace(stage.spec, label_vectors=3)), tokenizer, None)


def test_a_part_can_come_from_another_checkpoint(pocket: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(pocket / "tokenizer.json"))
    model, spec = checkpoint.load(pocket)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    checkpoint.save(tmp_path / "other", model, spec, pocket / "tokenizer.json")
    other, whole = checkpoint.load(tmp_path / "other")[0].state_dict(), checkpoint.load(pocket)[0]
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    recipe.take(whole, "decoder", tmp_path / "other", tokenizer)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, (other if name.startswith("decoder.") else before)[name])
    with pytest.raises(UserError, match="parts: markers encoder"):
        recipe.take(whole, "decodr", tmp_path / "other", tokenizer)
    pieces = Tokenizer.from_file(str(pocket / "tokenizer.json"))
    pieces.add_tokens(["<new>"])
    with pytest.raises(UserError, match="its tokenizer is another one"):
        recipe.take(whole, "decoder", tmp_path / "other", pieces)


def test_parts_are_given_by_name(pocket: Path) -> None:
    assert cli_recipe._part(f"decoder={pocket}") == ("decoder", pocket)
    for wrong in ("decoder", f"={pocket}", "decoder="):
        with pytest.raises(UserError, match="give a part and a checkpoint"):
            cli_recipe._part(wrong)
    with pytest.raises(UserError, match="it is no checkpoint of zhiyin"):
        cli_recipe._part("decoder=nowhere")


def test_what_is_told_is_scored_to_the_end_token(pocket: Path) -> None:
    """A model that always says `two`: right where that is the answer, unless it does not stop."""
    tokenizer = Tokenizer.from_file(str(pocket / "tokenizer.json"))
    two, eos = tokenizer.encode("two", add_special_tokens=False).ids, checkpoint.load(pocket)[0].config.eos_id
    told = [Example("<sttc>", said, None, heard="one<answer>") for said in ("two", "two", "one", "two two")]
    told.append(Example("<ast>", "two", None, heard="one<translation>"))
    figures = QuickEvaluation((), None, tokenizer, (), told=told, device="cpu", bf16=False)
    model, _ = checkpoint.load(pocket)
    says = [*two, eos]
    rows: list[list[int]] = []

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(*hidden.shape[:2], tokenizer.get_vocab_size())
        for row, ids in enumerate(rows[: len(hidden)]):
            for step, token in enumerate(says):
                if ids[0] + step < scores.shape[1]:
                    scores[row, ids[0] + step, token] = 1.0
        del rows[: len(hidden)]
        return scores

    for task in ("answer", "translation"):
        rows += [[len(row.before) + len(row.after) - 1] for row in figures.told[task]]
    model.decoder.logits = logits  # type: ignore[method-assign]
    assert figures(model) == {"answer": 0.5, "translation": 1.0}
