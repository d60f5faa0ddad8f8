"""Names of the files of a version, and the number of its format; no other module spells them out.

An export (`export/folder.py`) and a folder of weights have files of their own.
"""

# Number of the format of shards and index; a reader rejects every other number.
FORMAT = 2
# Written last, so a folder that has it is complete.
INDEX = "index.json"
# Checksums of all files but itself and the gallery, in the form that `sha256sum -c` reads.
SUMS = "SHA256SUMS"
# The table of attempts.
RECORDS = "records.parquet"
# The dataset card. Hosts of datasets show a file of this name.
CARD = "README.md"
CROISSANT = "croissant.json"
GALLERY = "gallery/index.html"
# Prefix of the hidden folder in which a version is written.
BUILDING = ".building-"
# Folder beside the versions. Where a plan led to content that was published before, a file named
# after the plan's digest holds the name of that version.
PLANS = ".plans"
