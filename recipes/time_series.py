"""
Transfer a forecaster from one time series to another, with little of the other.

    accelerate launch recipes/time_series.py
    accelerate launch recipes/time_series.py --source_series ETTh1.csv --target_series ETTh2.csv \\
        --split_lengths 8640 2880 2880 --context_length 336 --prediction_length 96 --few 0.05 0.1 1.0 --seeds 3
    accelerate launch recipes/time_series.py --model_name_or_path outputs/time_series/pretrained \\
        --target_series exchange_rate.csv --strategies scratch,probe,lp_ft
    accelerate launch recipes/time_series.py --task classification --target_series embedded:series/classes

Without arguments it takes those of time_series.yaml: embedded series, no network.

It pretrains a PatchTST or PatchTSMixer on the source series, by filling in masked patches or by forecasting, or takes
the one that `--model_name_or_path` names. Then it learns the target series from each share `--few` of its training
rows, by each of `--strategies` and with each seed, on the same windows in the same order: from scratch, the head alone
in closed form, all weights, thawed gradually, held to the start (L2-SP), by LoRA, and the head first (LP-FT). What
transfer must beat is the better of two that know no source: from scratch, and a head in closed form on a random
backbone. Naive, seasonal naive and linear forecast always stand beside, and the pretrained model as it is where it can
forecast.

Rows are split by time and never shuffled. Scaling is fitted on the training rows that are kept. Checkpoints and the
recommended strategy are chosen on the evaluation part; the test part is scored once for each run.

It leaves comparison.md (errors, differences to what transfer must beat, a verdict, what beats what), all_results.json,
few_data.png, horizon.png, forecasts.png, the models of all runs in folders of their own, and the best of them as an
ordinary model with its SeriesProcessor. Every finished run is in results.json: a comparison that was interrupted goes
on there.
"""

from __future__ import annotations

from hf_transfer.recipe import parse, prepare_run
from hf_transfer.time_series.arguments import (
    CLASSIFICATION,
    ForecasterArguments,
    SeriesArguments,
    SeriesLoopArguments,
)
from hf_transfer.time_series.closing import close
from hf_transfer.time_series.comparison import SeriesComparison


def main() -> None:
    """Pretrain, run every strategy, compare, save."""
    recipe, model, args = parse(__file__, SeriesArguments, ForecasterArguments, SeriesLoopArguments)
    prepare_run(args)
    if recipe.task == CLASSIFICATION:
        from hf_transfer.time_series.classification import run_classification

        recipe.check(model, args)
        run_classification(recipe, model, args)
        return
    comparison = SeriesComparison(recipe, model, args)
    comparison.run()
    close(comparison)


if __name__ == "__main__":
    main()
