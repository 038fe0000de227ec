"""Curves in TensorBoard."""

from deepspeed.monitor.config import TensorBoardConfig
from deepspeed.monitor.monitor import TensorBoardMonitor

from pipeline.deepspeed.monitors.monitor import Monitor


class TensorBoard(Monitor):
    """By DeepSpeed's writer."""

    package = "tensorboard"
    folder = "tensorboard"
    settings = TensorBoardConfig
    writer_class = TensorBoardMonitor

    def cut_back(self, step: int) -> None:
        """Write what SummaryWriter(purge_step=...) does, which DeepSpeed's monitor has no way to ask for."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        summaries = self.writer.summary_writer
        if not self.may_be_anothers(summaries.log_dir, step):
            again = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
            summaries.file_writer.add_event(again)

    def close(self) -> None:
        """Write what is still in memory; raises OSError where the disk is full."""
        self.writer.summary_writer.close()


MONITOR = TensorBoard
