"""What a teacher with a processor of its own is called with."""

from __future__ import annotations

import pytest
import torch
from transformers import ASTFeatureExtractor, DataCollatorWithPadding, Wav2Vec2FeatureExtractor

from hf_transfer import ModelSpec, Teacher, TeacherCollator, TransferBatch, attach, teacher_inputs
from hf_transfer.data.source_models import _tokenizer
from hf_transfer.teacher.tokens import same_tokens
from tests.models import batch_for, bert_config, tiny_bert, tiny_token_bert, tiny_vit, tiny_wav2vec2
from tests.teacher.test_images import IMAGENET, processor
from tests.teacher.test_teacher import Squared, batch_of


TEXTS = ["a good film", "bad", "a film that is long and long and bad", "good good"]


@pytest.fixture(scope="module")
def tokenizers():
    """The student's, and one of the teacher with other numbers for other words."""
    return _tokenizer(["a good bad film that is long and"]), _tokenizer(["long bad and a film", "x y z w v u t"])


def spec_of(model):
    return ModelSpec(feature_dim=16, num_labels=3, model=model)


def data_for(student_tokenizer, own):
    from datasets import Dataset

    data = Dataset.from_dict({"text": TEXTS, "labels": [0, 1, 2, 0]})
    data = teacher_inputs(data, own)
    data = data.map(lambda batch: student_tokenizer(batch["text"]), batched=True)
    return data.remove_columns("text")


def test_images_are_renormalised_and_resized():
    model = tiny_vit()
    batch = batch_of(model)
    teacher = Teacher(model, processor=processor(8, **IMAGENET), student_processor=processor(4))
    small = torch.randn(4, 3, 4, 4)
    seen = []
    teacher.model.register_forward_pre_hook(lambda m, a, k: seen.append(k["pixel_values"]), with_kwargs=True)
    teacher(TransferBatch(features=batch.features, inputs={"pixel_values": small}))
    assert torch.equal(seen[0], teacher._inputs.images(small)) and seen[0].shape[-1] == 8
    same = Teacher(model, processor=processor(8), student_processor=processor(8))
    assert torch.equal(same(batch).logits, Teacher(model)(batch).logits)
    with pytest.raises(ValueError, match="images are 4 x 4 pixels and .* takes 8 x 8.*Give both image processors"):
        Teacher(model)(TransferBatch(features=batch.features, inputs={"pixel_values": small}))


def test_processors_are_loaded_by_name(tmp_path, tokenizers):
    processor(8, **IMAGENET).save_pretrained(tmp_path)
    tiny_vit().save_pretrained(tmp_path)
    teacher = Teacher(tmp_path, student_processor=processor(8))  # its own lies beside it
    assert teacher._inputs.images.scale is not None
    tokenizers[1].save_pretrained(tmp_path / "text")
    bert = Teacher(tiny_bert(), processor=tmp_path / "text", student_processor=tokenizers[0])
    assert bert._inputs.tokens_agree is False


def test_processors_of_the_wrong_kind_are_refused(tokenizers):
    with pytest.raises(ValueError, match="`processor=` is given and `student_processor=` is not.*Give both"):
        Teacher(tiny_vit(), processor=processor())
    with pytest.raises(ValueError, match="`student_processor=` is given and `processor=` is not"):
        Teacher(tiny_vit(), student_processor=processor())
    with pytest.raises(TypeError, match="for a teacher that reads `input_ids`.*Give the tokenizers of both"):
        Teacher(tiny_bert(), processor=processor(), student_processor=tokenizers[0])
    with pytest.raises(TypeError, match="no image processor"):
        Teacher(tiny_vit(), processor=tokenizers[0], student_processor=processor())


def test_sound_must_be_heard_alike(tmp_path):
    own = Wav2Vec2FeatureExtractor(sampling_rate=8000)
    message = "of the teacher, ASTFeatureExtractor, and of the student, Wav2Vec2F.*with the teacher's extractor"
    with pytest.raises(ValueError, match=message):
        Teacher(tiny_wav2vec2(), processor=ASTFeatureExtractor(num_mel_bins=16), student_processor=own)
    own.save_pretrained(tmp_path)
    model = tiny_wav2vec2().eval()
    teacher = Teacher(model, processor=tmp_path, student_processor=Wav2Vec2FeatureExtractor(sampling_rate=8000))
    batch = batch_of(model)
    with torch.no_grad():
        expected = model(**batch.inputs).logits
    assert torch.equal(teacher(batch).logits, expected)


def test_tokenizers_are_compared_by_what_they_read(tokenizers):
    student, other = tokenizers
    assert same_tokens(student, student) and not same_tokens(student, other)
    assert same_tokens(student, _tokenizer(["a good bad film that is long and"]))
    cased = _tokenizer(["a good bad film that is long and Hello hello World world"])
    plain = _tokenizer(["a good bad film that is long and Hello hello World world"])
    cased.backend_tokenizer.normalizer = None
    assert cased.get_vocab() == plain.get_vocab() and not same_tokens(cased, plain)


def test_texts_are_tokenised_again_and_padded_beside(tokenizers):
    student_tokenizer, own = tokenizers
    vocabulary = max(len(student_tokenizer), len(own))
    teacher_model = tiny_bert(vocab_size=vocabulary).eval()
    student = tiny_bert(vocab_size=vocabulary)
    data = data_for(student_tokenizer, own)
    collate = TeacherCollator(DataCollatorWithPadding(student_tokenizer), own)
    batch = collate([data[row] for row in range(4)])
    alone = own(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(batch["teacher_input_ids"], alone["input_ids"])
    assert torch.equal(batch["input_ids"], student_tokenizer(TEXTS, padding=True, return_tensors="pt")["input_ids"])
    teacher = Teacher(teacher_model, processor=own, student_processor=student_tokenizer)
    attachment = attach(student.eval(), [Squared(teacher)])
    student.training = True
    logits = student(**batch).logits
    with torch.no_grad():
        expected = torch.nn.functional.mse_loss(logits, teacher_model(**alone).logits)
    assert attachment.terms["squared"].item() == pytest.approx(expected.item(), rel=1e-5)
    plain = {name: value for name, value in batch.items() if not name.startswith("teacher_")}
    with pytest.raises(ValueError, match="another tokenizer.*the batch holds no `teacher_input_ids`"):
        student(**plain)


def test_with_the_same_tokens_its_own_are_not_needed(tokenizers):
    student_tokenizer, _ = tokenizers
    again = _tokenizer(["a good bad film that is long and"])
    teacher = Teacher(tiny_token_bert(), processor=again, student_processor=student_tokenizer)
    teacher.bind(spec_of(tiny_token_bert()), logits=True)
    batch = batch_of(tiny_bert())
    other = TransferBatch(
        features=batch.features, inputs=batch.inputs, columns={"teacher_input_ids": torch.ones(4, 9, dtype=torch.long)}
    )
    assert torch.equal(teacher(other).logits, teacher(batch).logits)


def test_tokens_of_one_are_no_tokens_of_the_other(tokenizers):
    teacher = Teacher(tiny_token_bert(), processor=tokenizers[1], student_processor=tokenizers[0])
    with pytest.raises(ValueError, match="another tokenizer than the student, which predicts something for each"):
        teacher.bind(spec_of(tiny_token_bert()), logits=True)
    blind = Teacher(tiny_token_bert())
    blind.bind(spec_of(tiny_token_bert()), logits=True)
    columns = {"teacher_input_ids": torch.ones(2, 9, dtype=torch.long)}
    with pytest.raises(ValueError, match="holds `teacher_input_ids` and the student predicts something for each"):
        blind(TransferBatch(features=torch.zeros(2, 16), columns=columns))


def test_ids_beyond_the_vocabulary_are_refused(caplog):
    from transformers import BertForSequenceClassification

    teacher = Teacher(BertForSequenceClassification(bert_config(vocab_size=20)))
    student = tiny_bert()
    teacher.bind(spec_of(student), logits=True)
    batch = batch_for(student)
    inputs = {"input_ids": batch["input_ids"].clamp(max=19)}
    assert teacher(TransferBatch(features=torch.zeros(4, 16), inputs=inputs)).logits.shape == (4, 3)
    inputs["input_ids"][0, 0] = 20
    with pytest.raises(ValueError, match="token id 20 and .* has a vocabulary of 20.*teacher_inputs"):
        teacher(TransferBatch(features=torch.zeros(4, 16), inputs=inputs))


def test_rows_that_an_objective_added_are_refused():
    teacher = Teacher(tiny_bert())
    columns = {"teacher_input_ids": torch.ones(2, 9, dtype=torch.long)}
    with pytest.raises(ValueError, match="for 2 rows, and an objective changed or added rows.*student saw 4"):
        teacher(TransferBatch(features=torch.zeros(4, 16), columns=columns))


def test_columns_of_texts_are_checked(tokenizers):
    from datasets import Dataset

    data = Dataset.from_dict({"sentence": TEXTS, "other": TEXTS})
    with pytest.raises(ValueError, match="with a data set of `sentence`, `other`.*before the student's tokenizer"):
        teacher_inputs(data, tokenizers[1])
    pairs = teacher_inputs(data, tokenizers[1], ["sentence", "other"], max_length=6)
    assert max(map(len, pairs["teacher_input_ids"])) == 6 and 1 in pairs["teacher_token_type_ids"][0]
    with pytest.raises(ValueError, match="has `teacher_input_ids`.*already: two teachers"):
        teacher_inputs(pairs, tokenizers[1], "sentence")
