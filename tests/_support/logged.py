"""What loggers' own files hold, read back by their makers' readers: ``{name: [(step, value)]}``."""

import json
import struct
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 1 << 15
Series = dict[str, list[tuple[int, float]]]


def board(folder: Path) -> Any:
    """TensorBoard's own reader of the event files in ``folder``."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    every = {"scalars": 0, "histograms": 0, "images": 0}  # 0: keep all
    found = EventAccumulator(str(folder), size_guidance=every)
    found.Reload()
    return found


def board_scalars(folder: Path) -> Series:
    found = board(folder)
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def board_counts(folder: Path) -> dict[str, list[tuple[int, int]]]:
    """How many values each histogram has."""
    found = board(folder)
    return {
        tag: [(event.step, int(event.histogram_value.num)) for event in found.Histograms(tag)]
        for tag in found.Tags()["histograms"]
    }


def _wandb_records(raw: bytes) -> Iterator[bytes]:
    """The whole records of a ``.wandb`` file so far: a LevelDB log; wandb has no reader of it."""
    assert raw[:4] == b":W&B"
    position, whole = 7, b""
    while position + 7 <= len(raw):
        if BLOCK - position % BLOCK < 7:  # no header begins in so few bytes
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", raw[position : position + 7])
        if position + 7 + length > len(raw):  # still being written
            return
        whole += raw[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in {1, 4}:  # a whole record, or the last part of one
            yield whole
            whole = b""


def _wandb_run(folder: Path) -> list[Any]:
    """All records of the one offline run below ``folder``, once its end is among them."""
    from wandb.proto import wandb_internal_pb2

    (file,) = {path.resolve() for path in folder.rglob("run-*.wandb")}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        records = []
        for data in _wandb_records(file.read_bytes()):
            records.append(wandb_internal_pb2.Record())
            records[-1].ParseFromString(data)
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.05)  # another process writes, and finish() does not wait for it
    raise AssertionError(f"{file} has no end")


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of the one offline run below ``folder``, as W&B would upload them."""
    rows = []
    for record in _wandb_run(folder):
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                *path, name = item.nested_key or [item.key]
                into = row
                for key in path:  # a histogram's bins and counts
                    into = into.setdefault(key, {})
                into[name] = json.loads(item.value_json)
            rows.append(row)
    return rows


def wandb_series(folder: Path, axis: str, name: str) -> list[tuple[int, Any]]:
    return [(row[axis], row[name]) for row in wandb_rows(folder) if name in row]


def mlflow_series(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    import mlflow

    history = mlflow.MlflowClient(uri).get_metric_history(run_id, name)
    return sorted((metric.step, metric.value) for metric in history)


def comet_messages(folder: Path) -> list[dict[str, Any]]:
    """What the one offline experiment in ``folder`` would upload."""
    (path,) = folder.glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("messages.json").decode().splitlines()
    return [json.loads(line) for line in lines]


def comet_scalars(folder: Path) -> Series:
    found: Series = defaultdict(list)
    for message in comet_messages(folder):
        if message["type"] == "metric_msg":
            metric = message["payload"]["metric"]
            found[metric["metricName"]].append((metric["step"], metric["metricValue"]))
    return found


def comet_uploads(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The uploads of a kind, with what Comet notes of each."""
    return [
        message["payload"]["additional_params"]
        for message in comet_messages(folder)
        if message["type"] == "file_upload" and message["payload"]["upload_type"] == kind
    ]


def comet_counts(folder: Path) -> dict[str, list[int]]:
    """How many values each histogram has, a number an upload."""
    (path,) = folder.glob("*.zip")
    found: dict[str, list[int]] = defaultdict(list)
    with zipfile.ZipFile(path) as archive:
        for message in comet_messages(folder):
            payload = message["payload"]
            if message["type"] == "file_upload" and payload["upload_type"] == "histogram3d":
                bins = json.loads(archive.read(payload["file_path"]))["index_values"]
                name = payload["additional_params"]["fileName"]
                found[name].append(sum(count for _, count in bins))
    return found
