"""Names of the files of a version, and the number of the format."""

FORMAT = 2
"""The format number of shards and index; a reader refuses a number that it does not know."""
INDEX = "index.json"
SUMS = "SHA256SUMS"
RECORDS = "records.parquet"
CARD = "README.md"
CROISSANT = "croissant.json"
GALLERY = "gallery/index.html"
BUILDING = ".building-"
"""How the hidden folder of a version in the making begins."""
PLANS = ".plans"
"""Folder beside the versions: for a plan whose content existed already, the name of its version."""
