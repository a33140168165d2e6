"""Archives made for tests."""

from __future__ import annotations

import io
import tarfile
import zipfile

from dicom_converted import ingested
from dicom_fixture import write_series

ENDS = (".zip", ".tar", ".tar.gz")


def packed(path, files):
    """An archive of these names and contents."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for name, content in files:
                out.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as out:
            for name, content in files:
                out.addfile(tar_info(name, len(content)), io.BytesIO(content))
    return path


def tar_info(name, size=0, **more):
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in more.items():
        setattr(info, key, value)
    return info


def files_of(folder):
    return [
        (f"session/{path.relative_to(folder)}", path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def small(n=1):
    return [(f"IM{k}", b"0123456789" * 60) for k in range(n)]


def reason_of(tmp_path, path, **rules):
    table, _ = ingested(tmp_path, {"a": path}, **rules)
    assert not (tmp_path / "ingest" / "0000").exists()  # no image where there is a reason
    row = table.loc["a"]
    return row["reason"], row["detail"] or ""


def write_session(folder):
    """Water and fat of one person, with a spreadsheet beside them."""
    write_series(folder / "w", SeriesDescription="dixon_w")
    write_series(folder / "f", seed=1, SeriesDescription="dixon_f")
    (folder / "notes.csv").write_text("a,b\n")
    return folder
