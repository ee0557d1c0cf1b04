from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import default_data_collator

from hf_transfer.compare.problem.predicting import predict_logits
from hf_transfer.series_models import named_output
from tests.test_series_models import CLASSIFIERS, rows_for


@pytest.mark.parametrize("make", CLASSIFIERS)
def test_a_classifier_of_series(make):
    """What it returns has another name than `logits`."""
    model = make()
    values = rows_for(model, rows=7)["past_values"]
    rows = Dataset.from_dict({"past_values": values.tolist()}).with_format("torch")
    found = predict_logits(model.train(), rows, default_data_collator, batch_size=3)
    with torch.no_grad():
        output = model.eval()(past_values=values)
    np.testing.assert_allclose(found, output[named_output(output)], atol=1e-6)
