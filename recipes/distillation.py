"""
Teach a small student what a large teacher knows, and compare it with the student that learns alone.

    accelerate launch recipes/distillation.py
    accelerate launch recipes/distillation.py --teacher_name_or_path bert-base-uncased --dataset_name imdb \\
        --student_blocks 3 --methods kd,dkd+hint --seeds 3 --output_dir distilled

Without arguments it takes those of distillation.yaml: embedded data, no network. A teacher whose checkpoint has a head
for the classes of the data is taken as it is; any other is fine-tuned first and kept in the folder `teacher`. The
student is cut out of the teacher (`--student_blocks`), pretrained (`--student_name_or_path`) or new
(`--student_from_scratch`).

It leaves comparison.md (scores of teacher, student alone and student by every method, the difference that the teacher
makes; parameters, size, latency and throughput), all_results.json, distillation.png, and the student that validates
best, which opens with `AutoModelFor...from_pretrained` and `pipeline()`. Every finished run is in results.json: a
comparison that was interrupted goes on there, one that gets more methods or seeds too. `--adapter lora` trains an
adapter of a pretrained student, in place of the student.

`--loss mine.yaml` composes a loss of one's own, a method a line: `kd: {temperature: 4.0}`, `hint: 0.5`.
"""

from __future__ import annotations

from hf_transfer.adapter_arguments import AdapterOptions
from hf_transfer.distillation.arguments import DistillationArguments, DistillationLoopArguments
from hf_transfer.distillation.closing import close
from hf_transfer.distillation.comparison import Comparison
from hf_transfer.recipe import parse, prepare_run
from hf_transfer.recipe_arguments import DataArguments


def main() -> None:
    """Get the teacher ready, train every student, compare, save."""
    recipe, adapter, data, args = parse(
        __file__, DistillationArguments, AdapterOptions, DataArguments, DistillationLoopArguments
    )
    prepare_run(args)
    comparison = Comparison(recipe, data, args, adapter=adapter)
    comparison.run()
    close(comparison)


if __name__ == "__main__":
    main()
