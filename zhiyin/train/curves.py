"""The picture of a run: losses, learning rate and dev figures over steps."""

from pathlib import Path

from zhiyin.data.manifest import read_growing


def draw(metrics: Path, picture: Path) -> None:
    """Draw `metrics.jsonl` as a PNG: training losses, dev error rates, dev accuracies.

    Where a resumed run went over the same steps again, the later figures count.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_growing(metrics)
    train = {row["step"]: row for row in rows if "loss" in row}
    dev = {row["step"]: row["dev"] for row in rows if "dev" in row}
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for name in ("lm_loss", "ctc_loss", "voice_loss"):
        points = [(step, train[step].get(name, 0)) for step in sorted(train)]
        points = [(step, loss) for step, loss in points if loss > 0]  # 0: nothing of that kind was learned
        left.plot([x for x, _ in points], [y for _, y in points], label=name, linewidth=1)
    left.set(xlabel="step", ylabel="loss per token", yscale="log", title="training")
    colours = pyplot.get_cmap("tab20")
    names = sorted({name for figures in dev.values() for name in figures})
    for number, name in enumerate(names):
        steps = [step for step in sorted(dev) if name in dev[step]]
        axis = middle if name.startswith("ctc_wer") else right
        values = [100 * dev[step][name] for step in steps]
        axis.plot(steps, values, marker=".", label=name.removeprefix("ctc_wer_"), color=colours(number % 20))
    middle.set(xlabel="step", ylabel="%", ylim=(0, 105), title="dev, word error rate of the CTC path")
    right.set(xlabel="step", ylabel="%", ylim=(0, 105), title="dev, accuracy of labels")
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)
