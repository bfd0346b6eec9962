"""The card of late interaction."""

from foreknow.core.card import Card

CARD = Card(
    slug="colbert",
    title="ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction over BERT",
    authors=("Khattab, Omar", "Zaharia, Matei"),
    year=2020,
    venue="SIGIR",
    room="memory",
    prior=(
        "Relevance is a sum over the tokens of the query of each one's best match among the tokens of the document, "
        "taken between vectors of a pretrained encoder that knows each token's context."
    ),
    control=(
        "off() pools the same vectors to one per text, so that tokens meet only through their mean; "
        "InteractionPrior(context=False) takes vectors that know no context, InteractionPrior(pretrained=False) an "
        "encoder with random weights."
    ),
    inputs="Documents as text; for training also queries with the documents that answer them.",
    outputs="For each query a ranked list of documents with scores, and which token matched which.",
    extras=("text",),
    cost="minutes",
    tier="beta",
    bibtex=r"""@inproceedings{khattab2020colbert,
  title     = {ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction over BERT},
  author    = {Khattab, Omar and Zaharia, Matei},
  booktitle = {ACM SIGIR Conference on Research and Development in Information Retrieval},
  year      = {2020},
  url       = {https://arxiv.org/abs/2004.12832},
}""",
    deviations=(
        "The encoder at hand is all-MiniLM-L6-v2 (6 layers, 384 dimensions) in place of BERT-base; any BERT in a local "
        "folder is taken by its path.",
        "Queries are padded with masks only where the encoder is trained, or by augment=True: masks that an encoder "
        "never learnt to use lowered nDCG@10 in trials on other documentation (of torch and gensim).",
        "Without judged queries the linear layer is set to the principal directions of the documents' token vectors, "
        "turned at random, and training starts from there; the paper trains it from random weights on half a million "
        "triples.",
        "Training of the linear layer alone, on stored outputs of the frozen encoder, is offered beside training of "
        "everything, because a few hundred judged queries do not carry an encoder.",
        "End-to-end search is the index of PLAID (2022) and of ColBERTv2; the inverted lists over product-quantised "
        "vectors of the first version are not offered.",
        "Stored outputs of a frozen encoder are rounded to half precision.",
        "Centroids are normalised after each of the four rounds of k-means, tokens go to the centroid of the largest "
        "cosine; the released code takes the Euclidean distance and normalises at the end.",
        "Where the lists of the published number of centroids hold fewer passages than the second stage keeps, more "
        "centroids are looked up; the published number is for millions of passages, whose lists are long.",
        "Other passages of a batch count as irrelevant as in ColBERTv2, but for those judged relevant or graded below "
        "0; a training takes at least 50 steps, as five epochs of a few dozen queries are too few.",
        "The proof re-ranks the best tenth of a collection by BM25, not the best 1000: its collections are smaller, "
        "and re-ranking all of one would be MaxSim by itself.",
        "A passage none of whose centroids survives pruning comes last in that stage; the released code scores it 0.",
        "MS MARCO, TREC CAR, Vaswani and Cranfield could not be had. The proof searches documentation by summary lines "
        "and newspaper texts by their first sentences; benchmarks/retrieval.py measures a collection that you have.",
    ),
    limits=(
        "A score is a sum over the query's tokens: it ranks the documents of one query and compares no queries.",
        "Documents are cut after 180 tokens; a warning says how many were. Cut long texts into passages yourself.",
        "The built-in encoder was trained for English and to be pooled, so the gain over one vector per text can be "
        "small or negative before training.",
        "Every token is stored, in 34 bytes at 2 bits a dimension; 45 tokens take as much as one pooled vector of 384 "
        "numbers.",
        "The encoder costs milliseconds a passage on a processor; BM25 needs no such time and is hard to beat "
        "on queries that share words with their answers.",
        "Documents added later use the first documents' centroids and linear layer; after adding many of another kind, "
        "fit again.",
        "The index holds the documents' texts: share it only with whom you may share them.",
    ),
)
