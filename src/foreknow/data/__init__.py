"""Tables: one record for every kind of input, readers for files, one encoder for every tabular system."""

from foreknow.common.lazy import lazy_names as _lazy_names

_PUBLIC = {
    "Column": "foreknow.data.table",
    "Table": "foreknow.data.table",
    "as_table": "foreknow.data.table",
    "read_table": "foreknow.data.readers",
    "column_names": "foreknow.data.readers",
    "iter_table": "foreknow.data.readers",
    "write_csv": "foreknow.data.readers",
    "Encoded": "foreknow.data.encoder",
    "EncoderSettings": "foreknow.data.encoder",
    "EncodingNote": "foreknow.data.encoder",
    "TableEncoder": "foreknow.data.encoder",
    "Standardizer": "foreknow.data.standardizer",
    "Dataset": "foreknow.data.sets",
    "Signals": "foreknow.data.mnist1d",
    "Images": "foreknow.data.fashion_mnist",
    "penguins": "foreknow.data.sets",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
