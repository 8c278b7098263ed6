"""For the tests of an app: following its pages, and the faults of networks, servers and proxies."""

from .fault import Fault
from .follow import Block, follow
from .proxy import FaultProxy

__all__ = ["Block", "Fault", "FaultProxy", "follow"]
