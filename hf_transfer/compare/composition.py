"""A loss composed in a YAML file: methods by name, each with its weight or its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hf_transfer.compare.methods import M, Vocabulary


__all__ = ["read_loss"]


def read_loss(path: str | Path, vocabulary: Vocabulary[M]) -> M:
    """
    The method that a YAML file composes, called by the stem of the file.

    Each key is a method; its value a weight, or a mapping of options of its constructor, or nothing for its defaults:

    ```yaml
    cdan: {weight: 1.0, entropy_conditioning: true}
    mcc: 0.5
    adabn:
    ```

    Args:
        path (`str` or path): the file.
        vocabulary (`Vocabulary`): the names it may use.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no mapping, or names a method or an option that does not exist: the nearest is suggested.

    Example:
        >>> import tempfile
        >>> from hf_transfer.domain_adaptation.methods import VOCABULARY
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "mine.yaml").write_text("dann: 0.5\\nl2sp: {weight: 1e-2}")
        ...     method = read_loss(Path(folder, "mine.yaml"), VOCABULARY)
        >>> method.name, method.description()
        ('mine', {'dann': {'weight': 0.5}, 'l2sp': {'weight': 0.01}})
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`--loss {path}`: there is no such file, so there is no loss to train by. Write one, such as "
            "`cdan: {weight: 1.0}` and `mcc: 0.5`, a line each."
        )
    try:
        terms = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(
            f"`--loss {path}` is no YAML ({error}): no term can be read from it. Write one `method: weight` a line."
        ) from error
    if not isinstance(terms, dict) or not terms:
        raise ValueError(
            f"`--loss {path}` holds {_described(terms)}, not methods with their weights: there would be no term. "
            "Write one `method: weight` a line."
        )
    if path.stem in (*vocabulary.references, *vocabulary.known()):
        raise ValueError(
            f"`--loss {path}` is called like the method `{path.stem}`: the table would not tell them apart. Rename "
            "the file."
        )
    where = f"`--loss {path}`"
    parts = [
        vocabulary.part(str(name), _options(str(name), value, where), where=where) for name, value in terms.items()
    ]
    return vocabulary.joined(path.stem, parts, where=where)


def _options(name: str, value: Any, where: str) -> dict[str, Any]:
    value = _number(value)
    if value is None:
        return {}
    if isinstance(value, dict):
        return {str(option): _number(setting) for option, setting in value.items()}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"weight": float(value)}
    raise ValueError(
        f"{where} gives `{name}` {_described(value)}, which is neither a weight nor options: it cannot be applied. "
        f"Write `{name}: 1.0`, or `{name}: {{weight: 1.0, ...}}`."
    )


def _number(value: Any) -> Any:
    """YAML reads 1e-3, without a point, as text."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _described(value: Any) -> str:
    return "nothing" if value is None else f"`{value}`, a {type(value).__name__}"
