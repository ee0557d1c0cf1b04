"""Nothing here may touch the network or the user's caches."""

from tests.data.conftest import offline


__all__ = ["offline"]
