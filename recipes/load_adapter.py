"""
Classify files or sentences with an adapter from a folder or the Hub, and write what it says.

    python recipes/load_adapter.py
    python recipes/load_adapter.py --adapter_name_or_path outputs/adapters --inputs photos/ --output_file digits.csv
    python recipes/load_adapter.py --adapter_name_or_path user/reviews --revision v2 --merge \\
        --inputs "A fine pan." "It broke at once." reviews.txt --output_file reviews.jsonl

Without arguments it takes those of load_adapter.yaml: embedded data, no network. The base model, its revision, the
labels and the processor are found by the adapter. Images and recordings are given as files or folders, text as
sentences or .txt files with one on each line. A row has the input, its label and the probability of every label; of a
regression the value; of tokens there is a row for each word.
"""

from __future__ import annotations

from hf_transfer.classify import ClassificationArguments, classify
from hf_transfer.recipe import parse


def main() -> None:
    """Load, classify, write."""
    (args,) = parse(__file__, ClassificationArguments)
    classify(args)


if __name__ == "__main__":
    main()
