"""python -m cvae compare: what it prints, and what its figure shows."""

import imageio.v3 as imageio
import pytest
from runs_to_compare import make, sweep  # noqa: F401, a fixture

from cvae import __main__ as entry
from cvae.commands.compare import against, against_number, elbo_curve, figure_of, learning_curves, rate_distortion
from cvae.runs.comparison import find, read
from cvae.runs.directory import Run
from cvae.runs.tables import Part, parts, rows
from cvae.training.tensorboard import TensorBoard


def by_latent_dim(sweep):
    """The rows in this order."""
    (part,) = parts(read(find([sweep])), "latent_dim")
    return part.rows


def call(*arguments):
    entry.main(["compare", *map(str, arguments)])


def test_a_table_is_printed_whole(sweep, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    call(sweep, "--sort", "latent_dim")
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "y 1x8x8, binarization=static; probabilities"
    assert lines[0].split() == [
        "latent_dim", "runs", "ELBO", "NLL", "rate", "distortion", "active", "units", "seconds", "state",
    ]  # fmt: skip
    assert lines[1].split()[:5] == ["2", "2", "-151.00", "±", "1.41"] and len(lines) == 4
    call(sweep, "--each")
    assert len(capsys.readouterr().out.splitlines()) == 8


@pytest.mark.parametrize("width", [30, 40, 60, 80])
def test_a_table_has_as_many_columns_as_there_is_room_for(sweep, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    call(sweep)
    _, *lines, said = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= width
    assert lines[0].split()[:3] == ["latent_dim", "runs", "ELBO"][: 3 if width > 30 else 2] or width == 30
    assert said.startswith("more columns by --all: ") and "seconds" in said
    call(sweep, "--all")
    assert "seconds  state" in capsys.readouterr().out


def test_markdown_and_csv(sweep, capsys):
    call(sweep, "--markdown", "--each", "--sort", "seed")
    assert capsys.readouterr().out.splitlines()[4].startswith("| 8 | 0 | -120.00 |")  # of one seed the best first
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
def test_wrong_options(sweep, capsys, caplog, arguments, message):
    with pytest.raises(SystemExit):
        call(sweep, *arguments)
    assert message in " ".join((capsys.readouterr().err + caplog.text).split())


def test_a_figure_is_written(sweep, tmp_path, capsys):
    call(sweep, "--plot", tmp_path / "a.png")
    pixels = imageio.imread(tmp_path / "a.png")
    assert pixels.shape[1] == 3 * 5 * 110 and pixels.std() > 10
    assert figure_of(parts(read(find([sweep]))), [None], "png").startswith(b"\x89PNG")


def test_the_number_of_the_axis(tmp_path):
    for name, lr, beta in (("a", 0.1, 1), ("b", 0.2, {}), ("c", 0.3, 2)):
        words = ["objective.beta=1", f"optimizer.lr={lr}", "fast=true"]
        make(tmp_path / name, *words, elbo=-lr, objective={"beta": beta}, optimizer={"lr": lr}, fast=name == "a")
    make(tmp_path / "d", *words, elbo=-1.0, conditional=True, optimizer={"lr": 0.4})
    found = parts(read(find([tmp_path])))
    assert against(found, None) == against(found, "lr") == against(found, "optimizer.lr") == ["optimizer.lr", None]
    assert against(parts(read(find([tmp_path / "a"]))), None) == [None]


@pytest.fixture
def axes():
    from matplotlib.figure import Figure

    return Figure().subplots()


def test_learning_curves_are_of_the_validation_split_where_there_is_one(sweep, axes):
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
    said = axes.get_title(), axes.get_xlabel(), axes.get_ylabel()
    assert said == ("learning curves", "optimizer steps", "ELBO, nats per image")


def test_rate_and_distortion(sweep, axes):
    rate_distortion(axes, by_latent_dim(sweep), ["red", "green", "blue"])
    points = [part.get_offsets().tolist() for part in axes.collections]
    assert points == [[[5, 145], [5, 147]], [[5, 115]], [[5, 116], [5, 114]]]
    for line in axes.lines:  # along each, -ELBO is the same
        totals = [x + y for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]
        assert totals[0] == pytest.approx(totals[1])
        assert line.get_zorder() < axes.collections[0].get_zorder()  # behind the points
    said = axes.get_title(), axes.get_xlabel(), axes.get_ylabel()
    assert said == ("rate and distortion", "rate, nats per image", "distortion, nats per image")


def test_the_elbo_against_a_number(sweep, axes):
    table = by_latent_dim(sweep)
    against_number(axes, table, "model.latent_dim", ["red", "green", "blue"])
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"]
    assert points == [(2, -151.0), (8, -120.0), (32, -120.0)]
    assert axes.get_xscale() == "log" and list(axes.get_xticks()) == [2, 8, 32]
    said = axes.get_title(), axes.get_xlabel(), axes.get_ylabel()
    assert said == ("ELBO against model.latent_dim", "model.latent_dim", "test ELBO, nats per image")


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, each with how."""
    from matplotlib.figure import Figure

    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, content, **how: saved.append((figure, how)))
    return saved


def test_a_row_has_one_colour_and_one_line_in_the_legend(sweep, figures):
    from matplotlib import colormaps

    table = by_latent_dim(sweep)
    figure_of([Part("", table)], ["model.latent_dim"], "svg")
    figure_of([Part("", table)], [None], "png")
    (figure, how), (without, _) = figures
    assert how == {"format": "svg", "dpi": 110}
    assert tuple(figure.get_size_inches()) == (15, 4.2) and tuple(without.get_size_inches()) == (10, 4.2)
    assert [axes.get_title() for axes in figure.axes] == [
        "learning curves", "rate and distortion", "ELBO against model.latent_dim",
    ]  # fmt: skip
    assert len(without.axes) == 2
    palette = [colormaps["viridis"](part) for part in (0.0, 0.46, 0.92)]
    (legend,) = figure.subfigs[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["latent_dim=2", "latent_dim=8", "latent_dim=32"]
    assert [line.get_color() for line in legend.get_lines()] == palette
    assert [tuple(part.get_facecolor()[0]) for part in figure.axes[1].collections] == palette
    assert [line.get_color() for line in figure.axes[2].lines if line.get_marker() == "o"] == palette


@pytest.mark.parametrize(("count", "legends"), [(12, 1), (13, 0)])
def test_many_rows_have_no_legend(tmp_path, figures, count, legends):
    for number in range(count):
        make(tmp_path / str(number), f"seed={number}", elbo=-1.0 - number, seed=number)
    figure_of(parts(read(find([tmp_path])), each=True), [None], "png")
    assert len(figures[0][0].subfigs[0].legends) == legends


@pytest.mark.parametrize(("name", "columns"), [("a", 4), ("experiment=factors_dip_vae", 3), ("a long name " * 9, 1)])
def test_the_legend_lies_within_the_figure(tmp_path, figures, name, columns):
    """As many entries beside each other as fit, and two for each panel at most."""
    for number in range(12):
        make(tmp_path / f"{name}{number:02}", elbo=-1.0 - number)
    figure_of(parts(read(find([tmp_path])), each=True), [None], "png")
    figure = figures[0][0]
    figure.draw_without_rendering()
    (legend,) = figure.subfigs[0].legends
    entries = [text.get_window_extent() for text in legend.get_texts()]
    assert len({round(entry.x0) for entry in entries}) == columns
    left, right = min(entry.x0 for entry in entries), max(entry.x1 for entry in entries)
    assert left > 0 and right < figure.bbox.width


@pytest.mark.parametrize(("points", "marker"), [(30, "."), (31, "")])
def test_a_long_curve_is_a_line_alone(tmp_path, axes, points, marker):
    run = make(tmp_path / "a", elbo=-1.0)
    board = TensorBoard(str(run))
    for step in range(points):
        board.log_metrics({"test/elbo": -10.0 + step, "test/rate": 0.0}, step)
    board.close("success")
    learning_curves(axes, rows(read(find([run]))), ["red"])
    assert [(len(line.get_xdata()), line.get_marker()) for line in axes.lines] == [(points, marker)]


def test_one_row_is_drawn(tmp_path, figures):
    make(tmp_path / "a", elbo=-1.0)
    figure_of(parts(read(find([tmp_path]))), [None], "png")
    assert figures[0][0].subfigs[0].legends[0].get_texts()[0].get_text() == "a"


def test_a_run_that_is_still_trained_is_in_the_legend(tmp_path, figures):
    make(tmp_path / "a", "model.latent_dim=2", elbo=-1.0)
    make(tmp_path / "b", "model.latent_dim=8", state="running", model={"latent_dim": 8, "filters": [32, 64]})
    board = TensorBoard(str(tmp_path / "b"))
    board.log_metrics({"test/elbo": -3.0, "test/rate": 0.0}, 1)
    board.close("success")
    figure_of(parts(read(find([tmp_path]))), [None], "png")
    assert [text.get_text() for text in figures[0][0].subfigs[0].legends[0].get_texts()] == ["a", "b"]


@pytest.mark.parametrize(("ending", "begins"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_kind_of_file_is_that_of_its_name(sweep, tmp_path, capsys, ending, begins):
    call(sweep, "--plot", tmp_path / f"a.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes().startswith(begins)
    assert capsys.readouterr().err == f"figure: {tmp_path}/a.{ending}\n"


def test_the_first_quarter_of_a_curve_does_not_set_the_scale(sweep, axes):
    (row,) = (row for row in rows(read(find([sweep]))) if row.label == "latent_dim=2")
    for number, member in enumerate(row.entries):
        board = TensorBoard(str(member.run))
        for step, value in enumerate([-900.0, -800, -40, -30, -20, -20, -20, -10]):
            board.log_metrics({"test/elbo": value - 10 * number, "test/rate": 0.0}, step)
        board.close("success")
    learning_curves(axes, [row], ["red"])
    assert axes.get_ylim() == pytest.approx((-50 - 0.15 * 40, -10 + 0.15 * 40))  # of the last three quarters of both
    assert [line.get_color() for line in axes.lines] == ["red", "red"]
    assert axes.get_legend_handles_labels()[1] == ["latent_dim=2"]


def test_lines_of_the_same_elbo_are_inside_the_plane(sweep, axes):
    rate_distortion(axes, by_latent_dim(sweep), ["red", "green", "blue"])
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    totals = [line.get_xdata()[0] + line.get_ydata()[0] for line in axes.lines]
    least, most = left + low, right + high
    assert totals == pytest.approx([least + part / 10 * (most - least) for part in range(1, 10)])
    assert all(tuple(line.get_xdata()) == (left, right) for line in axes.lines)
    assert left < 5 < right and low < 114 and 147 < high


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1, 8], "log"),
        ([1, 7], "linear"),
        ([0, 8], "linear"),
        ([-1, 8], "linear"),
        ([0.1, 0.8], "log"),
        ([3], "linear"),
    ],
)
def test_the_scale_of_a_number(tmp_path, axes, values, scale):
    for number, value in enumerate(values):
        make(tmp_path / str(number), "optimizer.lr=1", elbo=-1.0, optimizer={"lr": value})
    table = rows(read(find([tmp_path])), each=True)
    for row, value in zip(table, values, strict=True):
        row.settings["optimizer.lr"] = value
    against_number(axes, table, "optimizer.lr", ["red"] * len(values))
    assert axes.get_xscale() == scale
    if values == [1, 8]:
        assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "8"]


def test_seeds_have_a_standard_deviation(sweep, axes):
    against_number(axes, by_latent_dim(sweep), "model.latent_dim", ["red", "green", "blue"])
    bars = [part.get_segments()[0][:, 1].tolist() for part in axes.collections]
    assert bars[0] == pytest.approx([-151 - 2**0.5, -151 + 2**0.5]) and len(bars) == 2  # one of 8 has failed


def test_kinds_of_runs_have_panels_of_their_own_and_colours_go_on(sweep, figures):
    """Of a kind without the number its panel is empty."""
    from matplotlib import colormaps

    table = by_latent_dim(sweep)
    figure_of([Part("one", table), Part("two", table[:1])], ["model.latent_dim", None], "png")
    first, second = figures[0][0].subfigs
    assert [axes.axison for axes in first.axes] == [True] * 3 and [axes.axison for axes in second.axes] == [
        True, True, False,
    ]  # fmt: skip
    colours = [[tuple(part.get_facecolor()[0]) for part in frame.axes[1].collections] for frame in (first, second)]
    assert [*colours[0], *colours[1]] == [colormaps["viridis"](0.92 * number / 3) for number in range(4)]
