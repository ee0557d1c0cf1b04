"""The papers of PEFT's methods, which its configs do not name."""

from __future__ import annotations


def _paper(authors: str, title: str, where: str, number: str) -> str:
    return f'{authors}, "{title}", {where}, https://huggingface.co/papers/{number}'


PAPERS = {
    "LORA": _paper("Hu et al.", "LoRA: Low-Rank Adaptation of Large Language Models", "ICLR 2022", "2106.09685"),
    "ADALORA": _paper(
        "Zhang et al.",
        "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning",
        "ICLR 2023",
        "2303.10512",
    ),
    "IA3": _paper(
        "Liu et al.",
        "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
        "NeurIPS 2022",
        "2205.05638",
    ),
    "LOHA": _paper(
        "Hyeon-Woo et al.",
        "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning",
        "ICLR 2022",
        "2108.06098",
    ),
    "LOKR": _paper(
        "Yeh et al.",
        "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation",
        "ICLR 2024",
        "2309.14859",
    ),
    "VERA": _paper("Kopiczko et al.", "VeRA: Vector-based Random Matrix Adaptation", "ICLR 2024", "2310.11454"),
    "OFT": _paper(
        "Qiu et al.", "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", "NeurIPS 2023", "2306.07280"
    ),
    "BOFT": _paper(
        "Liu et al.",
        "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization",
        "ICLR 2024",
        "2311.06243",
    ),
    "LN_TUNING": _paper(
        "Zhao et al.",
        "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning",
        "ICLR 2024",
        "2312.11420",
    ),
    "PREFIX_TUNING": _paper(
        "Li and Liang", "Prefix-Tuning: Optimizing Continuous Prompts for Generation", "ACL 2021", "2101.00190"
    ),
    "PROMPT_TUNING": _paper(
        "Lester et al.", "The Power of Scale for Parameter-Efficient Prompt Tuning", "EMNLP 2021", "2104.08691"
    ),
    "P_TUNING": _paper("Liu et al.", "GPT Understands, Too", "2021", "2103.10385"),
}
"""By the type that PEFT gives a config."""

VARIANTS = {
    "DoRA": _paper("Liu et al.", "DoRA: Weight-Decomposed Low-Rank Adaptation", "ICML 2024", "2402.09353"),
    "rsLoRA": _paper(
        "Kalajdzievski", "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", "2023", "2312.03732"
    ),
    "PiSSA": _paper(
        "Meng et al.",
        "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models",
        "NeurIPS 2024",
        "2404.02948",
    ),
    "OLoRA": _paper(
        "Büyükakyüz", "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models", "2024", "2406.01775"
    ),
    "EVA": _paper(
        "Paischer et al.",
        "One Initialization to Rule them All: Fine-tuning via Explained Variance Adaptation",
        "2024",
        "2410.07170",
    ),
    "LoftQ": _paper(
        "Li et al.", "LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models", "ICLR 2024", "2310.08659"
    ),
}
"""Kinds of LoRA, which its config tells apart by options."""

__all__ = ["PAPERS", "VARIANTS"]
