"""python -m cvae compare: what it prints, and what its figure shows."""

import imageio.v3 as imageio
import pytest
from test_comparison import make, sweep  # noqa: F401, a fixture

from cvae import __main__ as entry
from cvae.commands.compare import against, against_number, drawn, elbo_curve, learning_curves, rate_distortion
from cvae.comparison import find, read, rows
from cvae.run import Run
from cvae.training.tensorboard import TensorBoard


def call(*arguments):
    entry.main(["compare", *map(str, arguments)])


def test_a_table_is_printed_whole(sweep, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setenv("COLUMNS", "40")
    call(sweep, "--sort", "latent_dim")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "latent_dim", "runs", "ELBO", "NLL", "rate", "distortion", "active", "units", "seconds", "state",
    ]  # fmt: skip
    assert lines[1].split()[:5] == ["2", "2", "-151.00", "±", "1.41"] and len(lines) == 4
    call(sweep, "--each")
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_markdown_and_csv(sweep, capsys):  # noqa: F811
    call(sweep, "--markdown", "--each", "--sort", "seed")
    assert capsys.readouterr().out.splitlines()[2].startswith("| 2 | 0 | -150.00 |")
    call(sweep, "--csv")
    assert len(capsys.readouterr().out.splitlines()) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "a.gif"], "--plot=a.gif: must be the name of a file that ends in .png, .pdf or .svg"),
        (["--against", "seed"], "--against=seed: must be a number that differs between the runs: model.latent_dim"),
        (["--sort", "x"], "--sort x: must be a column"),
    ],
)
def test_wrong_options(sweep, capsys, caplog, arguments, message):  # noqa: F811
    with pytest.raises(SystemExit):
        call(sweep, *arguments)
    assert message in " ".join((capsys.readouterr().err + caplog.text).split())


def test_a_figure_is_written(sweep, tmp_path, capsys):  # noqa: F811
    call(sweep, "--plot", tmp_path / "a.png")
    pixels = imageio.imread(tmp_path / "a.png")
    assert pixels.shape[1] == 3 * 5 * 110 and pixels.std() > 10
    assert drawn(rows(read(find([sweep]))), None, "png").startswith(b"\x89PNG")


def test_the_number_of_the_axis(tmp_path):
    for name, lr, beta in (("a", 0.1, 1), ("b", 0.2, {}), ("c", 0.3, 2)):
        words = ["objective.beta=1", f"optimizer.lr={lr}", "conditional=true"]
        make(tmp_path / name, *words, objective={"beta": beta}, optimizer={"lr": lr}, conditional=name == "a")
    table = rows(read(find([tmp_path])))
    assert against(table, None) == against(table, "lr") == against(table, "optimizer.lr") == "optimizer.lr"
    assert against(rows(read(find([tmp_path / "a"]))), None) is None


@pytest.fixture
def axes():
    from matplotlib.figure import Figure

    return Figure().subplots()


def test_learning_curves_are_of_the_validation_split_where_there_is_one(sweep, axes):  # noqa: F811
    table = rows(read(find([sweep])), each=True)
    for number, row in enumerate(table[:2]):
        board = TensorBoard(str(row.entries[0].run))
        for step in (1, 2):
            board.log_metrics({"test/elbo": -10.0 * step, "test/rate": 0.0}, step)
            if number:
                board.log_metrics({"validation/elbo": -5.0 * step}, step)
        board.close("success")
    assert elbo_curve(table[0].entries[0].run) == [(1, -10.0), (2, -20.0)]
    assert elbo_curve(table[1].entries[0].run) == [(1, -5.0), (2, -10.0)]
    learning_curves(axes, table, ["red", "blue", *["black"] * 4])
    first, second = axes.lines[:2]
    assert (list(first.get_xdata()), list(first.get_ydata()), first.get_color()) == ([1, 2], [-10.0, -20.0], "red")
    assert list(second.get_ydata()) == [-5.0, -10.0] and second.get_color() == "blue"
    labels = axes.get_legend_handles_labels()[1]
    assert labels == [row.label for row in table[:5]]  # the last has failed
    assert elbo_curve(Run(sweep)) == []


def test_rate_and_distortion(sweep, axes):  # noqa: F811
    rate_distortion(axes, rows(read(find([sweep])), "latent_dim"), ["red", "green", "blue"])
    points = [part.get_offsets().tolist() for part in axes.collections]
    assert points == [[[5, 145], [5, 147]], [[5, 115]], [[5, 116], [5, 114]]]
    for line in axes.lines:  # along each, -ELBO is the same
        totals = [x + y for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]
        assert totals[0] == pytest.approx(totals[1])


def test_the_elbo_against_a_number(sweep, axes):  # noqa: F811
    table = rows(read(find([sweep])), "latent_dim")
    against_number(axes, table, "model.latent_dim", ["red", "green", "blue"])
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"]
    assert points == [(2, -151.0), (8, -120.0), (32, -120.0)]
    assert axes.get_xscale() == "log" and list(axes.get_xticks()) == [2, 8, 32]
    assert axes.get_xlabel() == "model.latent_dim"
