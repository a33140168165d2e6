"""BIDS datasets for tests, written from a mapping of paths to contents."""

import json

DESCRIPTION = {"Name": "made up", "BIDSVersion": "1.9.0"}


def tsv(*rows):
    """A table of rows, the header first."""
    return "\n".join("\t".join(map(str, row)) for row in rows) + "\n"


def write_dataset(root, files):
    """Write files: JSON where the content is a mapping, text or nothing otherwise."""
    for name, content in {"dataset_description.json": DESCRIPTION, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def people(*rows, columns=("participant_id", "age", "sex")):
    """participants.tsv."""
    return tsv(columns, *rows)
