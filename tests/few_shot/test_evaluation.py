"""Evaluation on features: the same episodes for all, as one by one by hand, from data sets and arrays."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value

import hf_transfer
from hf_transfer.few_shot import Episodes, evaluate_few_shot
from hf_transfer.few_shot.evaluation import METHODS, TRANSDUCTIVE, gather_episodes
from hf_transfer.functional.few_shot import nearest_mean, simpleshot


def made(classes=6, each=20, width=16, *, spread=1.0, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(classes), each))
    features = generator.standard_normal((classes, width))[labels]
    return (features + spread * generator.standard_normal((len(labels), width))).astype(np.float32), labels


FEATURES, LABELS = made()
SMALL = {"n_way": 3, "queries": 5, "episodes": 30}


def test_it_is_exported():
    assert hf_transfer.evaluate_few_shot is evaluate_few_shot


def test_all_methods_on_the_same_episodes():
    results = evaluate_few_shot(FEATURES, LABELS, **SMALL, k_shot=2, seed=3)
    assert results.methods == METHODS and results.accuracies.shape == (7, 30)
    assert results.transductive == TRANSDUCTIVE and set(results.seconds) == set(METHODS)
    assert (results.n_way, results.k_shot, results.queries, results.episodes, results.seed) == (3, 2, 5, 30, 3)
    assert (results.accuracies.mean(1) > 0.6).all() and (results.accuracies.mean(1) < 1).all()


def test_accuracies_are_those_of_a_loop_over_episodes():
    """The nearest class mean by angle, written out row by row."""
    found = evaluate_few_shot(FEATURES, LABELS, methods=["nearest_mean"], **SMALL, k_shot=3, seed=1)
    rows = Episodes(LABELS, n_way=3, k_shot=3, queries=5, seed=1).draw(range(30))
    unit = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
    for episode in range(30):
        means = []
        for number in rows.classes[episode]:
            means.append(np.mean([unit[row] for row in rows.support[episode] if LABELS[row] == number], axis=0))
        right = 0
        for row in rows.query[episode]:
            cosines = [unit[row] @ mean / np.linalg.norm(mean) for mean in means]
            right += rows.classes[episode][int(np.argmax(cosines))] == LABELS[row]
        assert found.accuracies[0, episode] == pytest.approx(right / 15)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_batch_size_changes_nothing(batch_size):
    options = {"n_way": 3, "queries": 5, "episodes": 10}
    whole = evaluate_few_shot(FEATURES, LABELS, **options)
    found = evaluate_few_shot(FEATURES, LABELS, **options, batch_size=batch_size)
    # a rounding may decide a tie
    assert np.abs(found.accuracies - whole.accuracies).mean() < 1e-3


def test_more_episodes_begin_with_the_same():
    few = evaluate_few_shot(FEATURES, LABELS, methods=["prototypes"], n_way=3, queries=5, episodes=10)
    many = evaluate_few_shot(FEATURES, LABELS, methods=["prototypes"], n_way=3, queries=5, episodes=25)
    assert (many.accuracies[:, :10] == few.accuracies).all()


def test_a_data_set_of_features_arrays_and_tensors_say_the_same():
    features = Features({"features": List(Value("float32"), length=16), "labels": ClassLabel(names=list("abcdef"))})
    data = Dataset.from_dict({"features": FEATURES, "labels": LABELS}, features=features)
    arrays = evaluate_few_shot(FEATURES, LABELS, **SMALL)
    for given in (
        evaluate_few_shot(data, **SMALL),
        evaluate_few_shot(data, LABELS.tolist(), **SMALL),
        evaluate_few_shot(torch.tensor(FEATURES), torch.tensor(LABELS), **SMALL, device="cpu"),
        evaluate_few_shot(FEATURES.astype(np.float64), [f"c{label}" for label in LABELS], **SMALL),
    ):
        np.testing.assert_allclose(given.accuracies, arrays.accuracies)


def test_rows_without_a_label_take_no_part():
    labels = LABELS.copy()
    labels[::7] = -100
    features = FEATURES.copy()
    plain = evaluate_few_shot(features, labels, **SMALL)
    features[::7] = 1e3
    assert (evaluate_few_shot(features, labels, **SMALL).accuracies == plain.accuracies).all()


def test_base_features_are_what_simpleshot_and_laplacian_shot_centre_by():
    base, _ = made(seed=5)
    base = base + 3
    plain = evaluate_few_shot(FEATURES, LABELS, **SMALL)
    found = evaluate_few_shot(FEATURES, LABELS, **SMALL, base_features=base)
    by_mean = evaluate_few_shot(FEATURES, LABELS, **SMALL, base_features=torch.tensor(base).mean(0))
    np.testing.assert_allclose(found.accuracies, by_mean.accuracies, atol=0.07)
    differ = [name for name in METHODS if (plain.of(name) != found.of(name)).any()]
    assert differ == ["simpleshot", "laplacian_shot"]


def test_functions_and_own_names():
    def blind(support, labels, query, n_way):
        return torch.zeros(len(query), query.shape[1], n_way)

    def sharp(support, labels, query, n_way, *, base_mean=None):
        assert base_mean is not None
        return simpleshot(support, labels, query, n_way, base_mean=base_mean)

    methods = {"chance": blind, "mine": sharp, "its": "simpleshot", "angle": nearest_mean}
    results = evaluate_few_shot(FEATURES, LABELS, methods=methods, **SMALL, base_features=FEATURES)
    assert results.methods == ("chance", "mine", "its", "angle") and results.transductive == ()
    assert (results.of("chance") == 1 / 3).all()
    assert (results.of("mine") == results.of("its")).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_any_precision_are_computed_in_single(dtype):
    seen = []

    def noted(support, labels, query, n_way):
        seen.append((support.dtype, query.dtype))
        return nearest_mean(support, labels, query, n_way)

    found = evaluate_few_shot(torch.tensor(FEATURES).to(dtype), LABELS, methods={"noted": noted}, **SMALL)
    assert set(seen) == {(torch.float32, torch.float32)}
    plain = evaluate_few_shot(FEATURES, LABELS, methods=["nearest_mean"], **SMALL)
    assert abs(found.mean("noted") - plain.mean("nearest_mean")) < 0.02


def test_more_shots_are_better_and_noise_is_chance():
    means = [
        evaluate_few_shot(FEATURES, LABELS, methods=["prototypes"], k_shot=shots).mean("prototypes")
        for shots in (1, 5)
    ]
    assert means[0] + 0.05 < means[1]
    noise = np.random.default_rng(4).standard_normal(FEATURES.shape)
    results = evaluate_few_shot(noise, LABELS, methods=["nearest_mean", "tim"], n_way=5, queries=10, episodes=300)
    for method in results.methods:
        assert results.mean(method) == pytest.approx(0.2, abs=0.02)


def test_one_name_may_be_passed_alone():
    assert evaluate_few_shot(FEATURES, LABELS, methods="tim", **SMALL).methods == ("tim",)


def test_gathered_episodes_have_the_features_of_their_rows():
    table = torch.arange(60.0).reshape(30, 2)
    rows = Episodes([number % 3 for number in range(30)], n_way=2, k_shot=2, queries=3).draw(range(4))
    support, given, query, truth = gather_episodes(table, rows)
    assert (support == table[torch.tensor(rows.support)]).all() and (query == table[torch.tensor(rows.query)]).all()
    assert given.tolist() == [[0, 0, 1, 1]] * 4 and truth.tolist() == [[0, 0, 0, 1, 1, 1]] * 4


def test_nothing_is_left_to_differentiate():
    features = torch.tensor(FEATURES, requires_grad=True)
    evaluate_few_shot(features, LABELS, **SMALL)
    assert features.grad is None


def test_1000_episodes_of_prototypes_take_less_than_3_seconds():
    """1-shot and 5-shot together, on 640 wide features; about 0.4 s of one core, whatever else runs on it."""
    features, labels = made(20, 60, 640)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        began = time.process_time()
        for shots in (1, 5):
            evaluate_few_shot(features, labels, methods=["prototypes"], k_shot=shots, episodes=1000)
        assert time.process_time() - began < 3
    finally:
        torch.set_num_threads(threads)


def test_too_few_rows_and_classes_are_refused():
    with pytest.raises(ValueError, match="of 6 classes, an episode has `n_way=7`"):
        evaluate_few_shot(FEATURES, LABELS, n_way=7)
    with pytest.raises(ValueError, match=r"`c` \(20 rows\).*Lower `queries` or `k_shot`"):
        evaluate_few_shot(FEATURES, LABELS, k_shot=10, label_names=list("abcdef"))


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="no few-shot method `protonet`.*Pass names out of nearest_mean, prototypes"):
        evaluate_few_shot(FEATURES, LABELS, methods=["tim", "protonet"])
    with pytest.raises(ValueError, match="no few-shot method to evaluate"):
        evaluate_few_shot(FEATURES, LABELS, methods=[])


def test_missing_labels_and_episodes_are_refused():
    with pytest.raises(ValueError, match="`labels` is missing.*Pass the class of every row"):
        evaluate_few_shot(FEATURES)
    with pytest.raises(ValueError, match="120 rows of features and 119 labels"):
        evaluate_few_shot(FEATURES, LABELS[1:])
    with pytest.raises(ValueError, match="`episodes=0`: there is nothing to take a mean of"):
        evaluate_few_shot(FEATURES, LABELS, episodes=0)


def test_features_that_are_no_table_of_finite_numbers_are_refused():
    with pytest.raises(ValueError, match=r"shape \(120, 4, 4\).*Pass \(N, D\)"):
        evaluate_few_shot(FEATURES.reshape(120, 4, 4), LABELS)
    broken = FEATURES.copy()
    broken[5, 3] = np.nan
    with pytest.raises(ValueError, match="not finite: every distance to them would be NaN"):
        evaluate_few_shot(broken, LABELS)
    with pytest.raises(ValueError, match="`base_features` are 3 wide, the features 16"):
        evaluate_few_shot(FEATURES, LABELS, base_features=np.ones((4, 3)))


def test_features_of_tokens_and_views_are_refused():
    tokens = Dataset.from_dict({"features": [[[1.0, 2.0], [3.0, 4.0]]], "labels": [0]})
    with pytest.raises(ValueError, match="of tokens, or of several views.*one view"):
        evaluate_few_shot(tokens)
    views = Dataset.from_dict({"features": [[1.0, 2.0]] * 2, "view": [0, 1], "id": [0, 0], "labels": [0, 0]})
    with pytest.raises(ValueError, match="of tokens, or of several views"):
        evaluate_few_shot(views)
