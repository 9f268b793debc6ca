"""Public data sets as they are published, one file each. To add one: write its file, add its line here."""

from rewarddance.data.rows import Source
from rewarddance.data.sources.hpdv2 import HPDV2
from rewarddance.data.sources.hpdv3 import HPDV3
from rewarddance.data.sources.imagerewarddb import IMAGEREWARDDB
from rewarddance.data.sources.jsonl import JSONL
from rewarddance.data.sources.pickapic import PICKAPIC

SOURCES: dict[str, Source] = {
    "hpdv3": HPDV3,
    "hpdv2": HPDV2,
    "imagerewarddb": IMAGEREWARDDB,
    "pickapic": PICKAPIC,
    "jsonl": JSONL,
}
