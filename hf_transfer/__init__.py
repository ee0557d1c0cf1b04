"""Transfer learning for the Hugging Face stack: objectives, callbacks and a trainer for transformers classifiers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Imported now because each function shares its name with its module, which would otherwise take its place here.
from hf_transfer.anatomy import Anatomy, anatomy
from hf_transfer.attach import Attachment, attach
from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.compare import compare
from hf_transfer.objective import Objective


if TYPE_CHECKING:
    from hf_transfer.adaptation import adapt_at_test_time, adapt_batch_norm, adapt_source_free
    from hf_transfer.adapters import (
        adapter_summary,
        add_adapter,
        combine_adapters,
        give_head,
        load_adapter,
        merge_adapter,
        save_adapter,
        switch_adapter,
    )
    from hf_transfer.arguments import TransferArguments
    from hf_transfer.callbacks import (
        AdaptBatchNorm,
        ExponentialMovingAverage,
        FreezeBackbone,
        FreezeBatchNorm,
        GradualUnfreezing,
        Mixout,
        StochNorm,
        TrackProgress,
        UnfreezingSchedule,
    )
    from hf_transfer.callbacks.domain_health import DomainHealth
    from hf_transfer.callbacks.target_validation import TargetValidation
    from hf_transfer.compare.outcome import ComparisonResults
    from hf_transfer.compare.strategies import FineTune, Strategy
    from hf_transfer.data import mix_domains
    from hf_transfer.data.row_index import with_index
    from hf_transfer.data.views import TwoViewsCollator
    from hf_transfer.diagnostics import (
        class_shift,
        domain_bound,
        feature_plot,
        mmd_test,
        proxy_a_distance,
    )
    from hf_transfer.export import export_model
    from hf_transfer.exported import load_export
    from hf_transfer.features import extract_features, fit_head, fit_probe, load_probe
    from hf_transfer.features.layers.layer_report import layer_report
    from hf_transfer.features.reweighting import importance_weights, label_shift_weights, reweight, tradaboost
    from hf_transfer.features.training.trainer import FeatureExtractionTrainer
    from hf_transfer.few_shot.class_names import head_from_class_names
    from hf_transfer.few_shot.contrastive import contrastive_fine_tune
    from hf_transfer.few_shot.evaluation import evaluate_few_shot
    from hf_transfer.few_shot.sentence_classifier import sentence_classifier
    from hf_transfer.meta import MetaTrainer, add_scale_shift, fold_scale_shift, meta_test
    from hf_transfer.model_card import RunFacts, write_card, write_data_card
    from hf_transfer.multitask.collator import TaskCollator
    from hf_transfer.multitask.export import export_task
    from hf_transfer.multitask.inference import infer_tasks
    from hf_transfer.multitask.mixing import mix_tasks
    from hf_transfer.multitask.report import compare_tasks
    from hf_transfer.multitask.task import Task
    from hf_transfer.multitask.trainer import MultiTaskTrainer
    from hf_transfer.multitask.view import as_task
    from hf_transfer.objectives import (
        DELTA,
        DIST,
        L2SP,
        AdaptiveFeatureNorm,
        AttentionDistillation,
        AttentionTransfer,
        BatchNuclearNorm,
        BatchSpectralPenalization,
        BatchSpectralShrinkage,
        BiTuning,
        CentralMomentDiscrepancy,
        ClassBalanced,
        ConditionalAdversarial,
        ContrastiveRepresentation,
        CoTuning,
        CutMix,
        DecoupledDistillation,
        DeepCORAL,
        DomainAdversarial,
        EmbeddingDistillation,
        EntropyMinimization,
        FixMatch,
        FocalLoss,
        HintDistillation,
        InformationMaximization,
        JointMaximumMeanDiscrepancy,
        LabelSmoothing,
        LearningWithoutForgetting,
        LocalMaximumMeanDiscrepancy,
        LogitDistillation,
        LogitStandardization,
        MarginDisparity,
        MaximumClassifierDiscrepancy,
        MaximumMeanDiscrepancy,
        MinimumClassConfusion,
        Mixup,
        MultiTask,
        PairSimilarity,
        PatientDistillation,
        PrototypicalEpisodes,
        PseudoLabels,
        RDrop,
        RelationalDistillation,
        RuleConstraint,
        SimilarityPreserving,
        SlicedWasserstein,
        SupervisedContrastive,
        WassersteinDistance,
    )
    from hf_transfer.objectives.multitask.surgery import GradientSurgery
    from hf_transfer.presets import DistillationTrainer, DomainAdversarialTrainer, FineTuningTrainer
    from hf_transfer.rules import ContrastClause, KeywordRule, LabelHierarchy, MutualExclusion, Rule
    from hf_transfer.selection.api import rank_models
    from hf_transfer.selection.distance import domain_distance
    from hf_transfer.selection.ranking import SourceRanking
    from hf_transfer.source import Source
    from hf_transfer.students import student_from_teacher
    from hf_transfer.teacher import Teacher, TeacherOutput
    from hf_transfer.teacher.average import AverageTeacher
    from hf_transfer.teacher.cache import cache_teacher
    from hf_transfer.teacher.cached_teacher import CachedTeacher
    from hf_transfer.teacher.collator import TeacherCollator
    from hf_transfer.teacher.push import push_teacher_outputs
    from hf_transfer.teacher.tokens import teacher_inputs
    from hf_transfer.time_series.forecasting import forecast
    from hf_transfer.time_series.models import load_forecaster, new_forecaster
    from hf_transfer.time_series.processor import SeriesProcessor
    from hf_transfer.time_series.reading import read_series
    from hf_transfer.time_series.trainer import ForecastTrainer
    from hf_transfer.trainer import TransferTrainer
    from hf_transfer.validators import validate_without_labels
    from hf_transfer.weights import (
        greedy_soup,
        reinitialize_blocks,
        snapshot,
        transfer_parameters,
        uniform_soup,
        wise_ft,
    )


# fmt: off
__all__ = [
    "DELTA", "DIST", "L2SP", "AdaptBatchNorm", "AdaptiveFeatureNorm", "Anatomy", "Attachment", "AttentionDistillation",
    "AttentionTransfer", "AverageTeacher", "BatchNuclearNorm", "BatchSpectralPenalization", "BatchSpectralShrinkage",
    "BiTuning", "CachedTeacher", "CentralMomentDiscrepancy", "ClassBalanced", "CoTuning", "ComparisonResults",
    "ConditionalAdversarial", "ContrastClause", "ContrastiveRepresentation", "CutMix", "DecoupledDistillation",
    "DeepCORAL", "DistillationTrainer", "DomainAdversarial", "DomainAdversarialTrainer", "DomainHealth",
    "EmbeddingDistillation", "EntropyMinimization", "ExponentialMovingAverage", "FeatureExtractionTrainer", "FineTune",
    "FineTuningTrainer", "FixMatch", "FocalLoss", "ForecastTrainer", "FreezeBackbone", "FreezeBatchNorm",
    "GradientSurgery", "GradualUnfreezing", "HintDistillation", "InformationMaximization",
    "JointMaximumMeanDiscrepancy", "KeywordRule", "LabelHierarchy", "LabelSmoothing", "LearningWithoutForgetting",
    "LocalMaximumMeanDiscrepancy", "LogitDistillation", "LogitStandardization", "MarginDisparity",
    "MaximumClassifierDiscrepancy", "MaximumMeanDiscrepancy", "MetaTrainer", "MinimumClassConfusion", "Mixout",
    "Mixup", "ModelSpec", "MultiTask", "MultiTaskTrainer", "MutualExclusion", "Objective", "PairSimilarity",
    "PatientDistillation", "PrototypicalEpisodes", "PseudoLabels", "RDrop", "RelationalDistillation", "Rule",
    "RuleConstraint", "RunFacts", "SeriesProcessor", "SimilarityPreserving", "SlicedWasserstein", "Source",
    "SourceRanking", "StochNorm", "Strategy", "SupervisedContrastive", "TargetValidation", "Task", "TaskCollator",
    "Teacher", "TeacherCollator", "TeacherOutput", "TrackProgress", "TransferArguments", "TransferBatch",
    "TransferTrainer", "TwoViewsCollator", "UnfreezingSchedule", "WassersteinDistance", "adapt_at_test_time",
    "adapt_batch_norm", "adapt_source_free", "adapter_summary", "add_adapter", "add_scale_shift", "anatomy", "as_task",
    "attach", "cache_teacher", "class_shift", "combine_adapters", "compare", "compare_tasks", "contrastive_fine_tune",
    "domain_bound", "domain_distance", "evaluate_few_shot", "export_model", "export_task", "extract_features",
    "feature_plot", "fit_head", "fit_probe", "fold_scale_shift", "forecast", "give_head", "greedy_soup",
    "head_from_class_names", "importance_weights", "infer_tasks", "label_shift_weights", "layer_report",
    "load_adapter", "load_export", "load_forecaster", "load_probe", "merge_adapter", "meta_test", "mix_domains",
    "mix_tasks", "mmd_test", "new_forecaster", "proxy_a_distance", "push_teacher_outputs", "rank_models",
    "read_series", "reinitialize_blocks", "reweight", "save_adapter", "sentence_classifier", "snapshot",
    "student_from_teacher", "switch_adapter", "teacher_inputs", "tradaboost", "transfer_parameters", "uniform_soup",
    "validate_without_labels", "wise_ft", "with_index", "write_card", "write_data_card",
]
# fmt: on

# Loaded on first use: the Trainer alone takes longer to import than all the rest.
_LAZY = {
    "adaptation": "adapt_at_test_time adapt_batch_norm adapt_source_free",
    "adapters": (
        "adapter_summary add_adapter combine_adapters give_head load_adapter merge_adapter save_adapter switch_adapter"
    ),
    "arguments": "TransferArguments",
    "callbacks": (
        "AdaptBatchNorm ExponentialMovingAverage FreezeBackbone FreezeBatchNorm GradualUnfreezing Mixout "
        "StochNorm TrackProgress UnfreezingSchedule"
    ),
    "callbacks.domain_health": "DomainHealth",
    "callbacks.target_validation": "TargetValidation",
    "compare.outcome": "ComparisonResults",
    "compare.strategies": "FineTune Strategy",
    "data": "mix_domains",
    "data.row_index": "with_index",
    "data.views": "TwoViewsCollator",
    "diagnostics": "class_shift domain_bound feature_plot mmd_test proxy_a_distance",
    "export": "export_model",
    "exported": "load_export",
    "features": "extract_features fit_head fit_probe load_probe",
    "features.layers.layer_report": "layer_report",
    "features.reweighting": "importance_weights label_shift_weights reweight tradaboost",
    "features.training.trainer": "FeatureExtractionTrainer",
    "few_shot.class_names": "head_from_class_names",
    "few_shot.contrastive": "contrastive_fine_tune",
    "few_shot.evaluation": "evaluate_few_shot",
    "few_shot.sentence_classifier": "sentence_classifier",
    "meta": "MetaTrainer add_scale_shift fold_scale_shift meta_test",
    "model_card": "RunFacts write_card write_data_card",
    "multitask.collator": "TaskCollator",
    "multitask.export": "export_task",
    "multitask.inference": "infer_tasks",
    "multitask.mixing": "mix_tasks",
    "multitask.report": "compare_tasks",
    "multitask.task": "Task",
    "multitask.trainer": "MultiTaskTrainer",
    "multitask.view": "as_task",
    "objectives": (
        "AdaptiveFeatureNorm AttentionDistillation AttentionTransfer BatchNuclearNorm "
        "BatchSpectralPenalization BatchSpectralShrinkage BiTuning CentralMomentDiscrepancy ClassBalanced "
        "CoTuning ConditionalAdversarial ContrastiveRepresentation CutMix DELTA DIST DecoupledDistillation "
        "DeepCORAL DomainAdversarial EmbeddingDistillation EntropyMinimization FixMatch FocalLoss "
        "HintDistillation InformationMaximization JointMaximumMeanDiscrepancy L2SP LabelSmoothing "
        "LearningWithoutForgetting LocalMaximumMeanDiscrepancy LogitDistillation LogitStandardization "
        "MarginDisparity MaximumClassifierDiscrepancy MaximumMeanDiscrepancy MinimumClassConfusion Mixup MultiTask "
        "PairSimilarity PatientDistillation PrototypicalEpisodes PseudoLabels RDrop RelationalDistillation "
        "RuleConstraint SimilarityPreserving SlicedWasserstein SupervisedContrastive WassersteinDistance"
    ),
    "objectives.multitask.surgery": "GradientSurgery",
    "presets": "DistillationTrainer DomainAdversarialTrainer FineTuningTrainer",
    "rules": "ContrastClause KeywordRule LabelHierarchy MutualExclusion Rule",
    "selection.api": "rank_models",
    "selection.distance": "domain_distance",
    "selection.ranking": "SourceRanking",
    "source": "Source",
    "students": "student_from_teacher",
    "teacher": "Teacher TeacherOutput",
    "teacher.average": "AverageTeacher",
    "teacher.cache": "cache_teacher",
    "teacher.cached_teacher": "CachedTeacher",
    "teacher.collator": "TeacherCollator",
    "teacher.push": "push_teacher_outputs",
    "teacher.tokens": "teacher_inputs",
    "time_series.forecasting": "forecast",
    "time_series.models": "load_forecaster new_forecaster",
    "time_series.processor": "SeriesProcessor",
    "time_series.reading": "read_series",
    "time_series.trainer": "ForecastTrainer",
    "trainer": "TransferTrainer",
    "validators": "validate_without_labels",
    "weights": "greedy_soup reinitialize_blocks snapshot transfer_parameters uniform_soup wise_ft",
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module `hf_transfer` has no attribute `{name}`")
    value = getattr(import_module(f"hf_transfer.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
