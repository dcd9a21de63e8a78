"""Where a run's readings go besides its records: TensorBoard, W&B, MLflow, Comet, or your own."""

from coordcbam.monitor.loggers.comet import Comet
from coordcbam.monitor.loggers.gates import gates
from coordcbam.monitor.loggers.mlflow import MLflow
from coordcbam.monitor.loggers.names import PREFIX, histograms_of, scalars_of
from coordcbam.monitor.loggers.sending import Logger, Loggers
from coordcbam.monitor.loggers.tensorboard import TensorBoard
from coordcbam.monitor.loggers.wandb import WandB

__all__ = [
    "PREFIX",
    "Comet",
    "Logger",
    "Loggers",
    "MLflow",
    "TensorBoard",
    "WandB",
    "gates",
    "histograms_of",
    "scalars_of",
]
