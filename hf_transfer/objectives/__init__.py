"""Every objective of the library: one class per method, in folders by family."""

from hf_transfer.objectives.domain_adaptation.domain_adversarial import DomainAdversarial
from hf_transfer.objectives.regularization.l2sp import L2SP


__all__ = ["L2SP", "DomainAdversarial"]
