"""TensorBoard: event files that its first tab shows in the order in which a person looks.

It draws one chart for each tag, with a line for each folder of event files. So the curves of each split have a folder
of their own, and the same tags: training and test share a chart. Everything else is in the run directory itself.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

from cvae import pictures
from cvae.runs.curves import place_of_curve
from cvae.runs.directory import Run

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PICTURES = (  # these first, in this order
    "training", "reconstruction", "sample", "latent_manifold", "latent_scatter", "latent_map", "latent_traversal",
    "latent_interpolation", "latent_rates", "learning_curves", "latent_groups", "latent_codes",
    "own",
)  # fmt: skip


def tag_of_picture(name: str) -> str:
    """pictures/01 training, …: numbered, as TensorBoard sorts tags."""
    number = PICTURES.index(name) if name in PICTURES else len(PICTURES)
    return f"pictures/{number + 1:02d} {name}"


class TensorBoard(Logger):
    """Writes event files into a run directory."""

    name, version = "", ""

    def __init__(self, run_dir: str) -> None:
        super().__init__()
        self.run = Run(run_dir)
        self.writers: dict[Path, SummaryWriter] = {}

    def writer(self, split: str | None = None) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter  # takes long to import, and other loggers need none of it

        folder = self.run.events(split)
        if folder not in self.writers:
            self.writers[folder] = SummaryWriter(str(folder))
        return self.writers[folder]

    def add(self, summary: Summary, step: int = 0) -> None:
        self.writer()._get_file_writer().add_summary(summary, step)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            if place := place_of_curve(name):
                split, tag = place
                self.writer(split).add_scalar(tag, value, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """The columns of HPARAMS. TensorBoard itself adds the figures, and puts the columns that differ first."""
        start = SessionStartInfo()
        for name, value in params.items():
            kind = "string_value" if isinstance(value, str) else "number_value"
            setattr(start.hparams[name], kind, value)
        self.add(record(metadata.SESSION_START_INFO_TAG, session_start_info=start))

    @rank_zero_only
    def log_text(self, tag: str, markdown: str, step: int) -> None:
        self.writer().add_text(tag, markdown, step)

    @rank_zero_only
    def log_picture(self, name: str, content: bytes, height: int, width: int, step: int) -> None:
        self.add(pictures.image_summary(tag_of_picture(name), content, height, width), step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write everything to the disk. Lightning calls this after fit and after test, so it is not the end."""
        for writer in self.writers.values():
            writer.flush()

    @rank_zero_only
    def close(self, status: str) -> None:
        """Say how the run ended, and close the files: a writer is a daemon thread, which ends with the process."""
        if self.writers:
            code = api_pb2.STATUS_SUCCESS if status == "success" else api_pb2.STATUS_FAILURE
            self.add(record(metadata.SESSION_END_INFO_TAG, session_end_info=SessionEndInfo(status=code)))
        while self.writers:
            self.writers.popitem()[1].close()

    @property
    def log_dir(self) -> str:
        return str(self.run.events())


def record(tag: str, **content: Any) -> Summary:
    """A line of HPARAMS; all of it is in the metadata."""
    about = metadata.create_summary_metadata(HParamsPluginData(**content))
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])
