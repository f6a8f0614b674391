"""Minibatches, trees, vocabularies, readers of common file formats, and the ListOps generator."""

from lazyflow.data.batching import Batches, batches
from lazyflow.data.conllu import Extra, Sentence, Token, attributes, parse_conllu, read_conllu
from lazyflow.data.listops import ListOps, evaluate, listops, parse_listops, read_listops
from lazyflow.data.ptb import parse_ptb, read_ptb_trees
from lazyflow.data.tree import Tree
from lazyflow.data.tsv import read_tsv
from lazyflow.data.vocabulary import Vocabulary

__all__ = [
    "Batches", "Extra", "ListOps", "Sentence", "Token", "Tree", "Vocabulary", "attributes", "batches", "evaluate",
    "listops", "parse_conllu", "parse_listops", "parse_ptb", "read_conllu", "read_listops", "read_ptb_trees",
    "read_tsv",
]  # fmt: skip
