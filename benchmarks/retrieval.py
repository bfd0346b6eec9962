"""Late interaction on a collection that you have, against BM25, TF-IDF and one pooled vector.

    python benchmarks/retrieval.py --collection FOLDER
    python benchmarks/retrieval.py --quick

The folder holds BEIR's layout, TREC files (Vaswani), Cranfield or CISI; see `foreknow.data.text`. Rankings are exact.
Trained arms are cross-validated over the queries. The index is measured against scoring every document. With --quick,
or without a collection, documentation of installed packages is searched, which shows that it runs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from foreknow.common.rng import numpy_stream
from foreknow.core.evidence import environment
from foreknow.core.measures import paired_interval
from foreknow.core.ranking import MEASURES
from foreknow.data.text import read_collection
from foreknow.data.text_sets import documentation
from foreknow.memory.colbert.proof import SIZES, Trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", metavar="FOLDER")
    parser.add_argument("--quick", action="store_true", help="a small encoder with random weights and few documents")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sizes = SIZES["quick" if given.quick else "small"]
    if given.collection:
        collection = read_collection(given.collection)
        sizes = replace(sizes, n_queries=len(collection.queries))
    else:
        collection = documentation(sizes.packages, sizes.n_documents, given.seed)
    print({**environment(), "encoder": sizes.encoder})
    print(f"{collection.name}: {len(collection.documents)} documents, {len(collection.queries)} queries")
    trial = Trial(collection, sizes, given.seed, modules=not given.collection)
    found = trial.measure(lambda arm: print(f"  {arm} done", flush=True))
    print(f"\n{'arm':28}" + "".join(f"{name:>10}" for name in MEASURES) + "   nDCG@10 minus BM25 [95%]")
    for arm, values in found.items():
        difference = values["nDCG@10"] - found["BM25"]["nDCG@10"]
        line = f"{arm:28}" + "".join(f"{values[name].mean():10.3f}" for name in MEASURES)
        if np.any(difference):
            interval = paired_interval(difference, rng=numpy_stream(given.seed, "bootstrap"))
            line += f"   {interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
        print(line)
    print()
    for record in trial.measure_index():
        print({name: round(value, 3) if isinstance(value, float) else value for name, value in record.items()})


if __name__ == "__main__":
    main()
