"""The same codes in other tools' formats, and these tools' loaders, for `token_reading.py`.

Each holds the codes alone: litdata and datatrove as `vtok tokens export` writes them, the others as their own libraries
do. Their libraries are imported where they are used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

GRID, CODEBOOK, BATCH = (4, 16, 16), 16_384, 16
LENGTH = math.prod(GRID)
EXPORTED = {"litdata": "litdata", "datatrove": "ds"}
PEERS = ("litdata", "mds", "datatrove", "hf datasets", "hf datasets, unshuffled", "grain")
BUILT_BY_PEERS = ("litdata", "mds", "grain")
"""Whose own library writes what it reads."""
Epoch = Callable[[int], Iterator[Any]]
"""Batches of an epoch from a batch on."""


def build(name: str, data: Path) -> None:
    """The codes of the store in `data/store` in a peer's format, below `data`."""
    from vtok.tokens.exchange.exporting import export_store
    from vtok.tokens.store import TokenStore

    store = TokenStore(data / "store")
    if name in EXPORTED:
        export_store(store, data / name, EXPORTED[name])
        return
    codes = np.concatenate([row["codes"][None] for row in store.rows("train")])
    if name == "memmap":
        np.save(data / "codes.npy", codes)
        return
    folder = data / name
    folder.mkdir()
    if name.startswith("hf datasets"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        lists = pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), LENGTH)
        pq.write_table(pa.table({"codes": lists}), folder / "train.parquet", row_group_size=1024)
        return
    if name == "webdataset":
        import webdataset

        with webdataset.ShardWriter(f"{folder}/train-%06d.tar", maxcount=4096, verbose=0) as shards:
            for number, row in enumerate(codes):
                shards.write({"__key__": f"{number:08d}", "npy": row})
        return
    if name == "mds":
        _register_torchvision_operators()
        from streaming import MDSWriter

        with MDSWriter(out=str(folder), columns={"codes": f"ndarray:uint16:{LENGTH}"}, size_limit=8 << 20) as writer:
            for row in codes:
                writer.write({"codes": row})
        return
    from array_record.python.array_record_module import ArrayRecordWriter

    records = ArrayRecordWriter(str(folder / "train.ar"), "group_size:1")
    for row in codes:
        records.write(row.tobytes())
    records.close()


def open_peer(name: str, data: Path) -> tuple[Epoch, Any]:
    """As `open_epochs`; an epoch that cannot start in the middle by itself skips what comes before."""
    folder = data / name
    if name == "litdata":
        import litdata
        from litdata.streaming.item_loader import TokensLoader

        dataset = litdata.StreamingDataset(
            str(folder / "train"), item_loader=TokensLoader(block_size=LENGTH), shuffle=True, drop_last=True
        )
        loader = litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0)
        return lambda start: itertools.islice(iter(loader), start, None), None
    if name == "mds":
        _register_torchvision_operators()
        from streaming import StreamingDataLoader, StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        streamed = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH, num_canonical_nodes=1)
        loader = StreamingDataLoader(streamed, batch_size=BATCH, num_workers=0)
        return lambda start: (batch["codes"] for batch in itertools.islice(iter(loader), start, None)), None
    if name == "datatrove":
        import torch
        from datatrove.utils.dataset import DatatroveFolderDataset

        tokens = DatatroveFolderDataset(str(folder / "train"), seq_len=LENGTH - 1, token_size=2, shuffle=True, seed=1)

        def trove(start: int) -> Iterator[Any]:
            part = torch.utils.data.Subset(tokens, range(start * BATCH, len(tokens)))
            return (batch["input_ids"] for batch in torch.utils.data.DataLoader(part, batch_size=BATCH, drop_last=True))

        return trove, None
    if name.startswith("hf datasets"):
        import datasets

        table = datasets.load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train", streaming=True)
        if "unshuffled" not in name:
            table = table.shuffle(buffer_size=1024, seed=0)
        batched = table.with_format("numpy").batch(BATCH, drop_last_batch=True)
        return lambda start: (batch["codes"] for batch in itertools.islice(batched, start, None)), None
    if name == "webdataset":
        import webdataset

        urls = sorted(str(path) for path in folder.glob("*.tar"))
        pipeline = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(1024).decode().to_tuple("npy")
        batches = pipeline.batched(BATCH, partial=False)
        return lambda start: (batch[0] for batch in itertools.islice(iter(batches), start, None)), None
    import grain

    source = grain.sources.ArrayRecordDataSource([str(folder / "train.ar")])
    made = grain.MapDataset.source(source).seed(7).shuffle().map(lambda row: np.frombuffer(row, np.uint16)).batch(BATCH)

    def grains(start: int) -> Iterator[Any]:
        iterator = iter(made.to_iter_dataset())
        iterator.set_state({"next_index": start} if isinstance(iterator.get_state(), dict) else start)
        return iterator

    return grains, None


def _register_torchvision_operators() -> None:
    """streaming imports torchvision, whose wheel does not load beside a torch for the CPU unless these are declared."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)


_KEPT: list[Any] = []
