"""The id of a sample inside its version: `source@number.attempt`."""


def sample_id(image: str, number: int, attempt: int) -> str:
    """The id of an attempt at the sample of that number of a source image."""
    return f"{image}@{number}.{attempt}"


def parsed(sample: str) -> tuple[str, int, int] | None:
    """Image, number and attempt of an id that anyone may have written; None when it is none."""
    image, _, tail = sample.rpartition("@")
    number, _, attempt = tail.partition(".")
    if not (number + attempt).isascii() or not number.isdecimal() or not attempt.isdecimal():
        return None
    # Longer numbers than the columns of a version can hold are in no version.
    if max(len(number), len(attempt)) > 9:
        return None
    return image, int(number), int(attempt)
