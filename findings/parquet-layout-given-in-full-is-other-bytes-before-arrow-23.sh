#!/usr/bin/env bash
# pyarrow: a Parquet layout that is given in full is still other bytes before version 23.
#
# Expected: with format version, page version, page size, batch size, dictionary, compression level
# and statistics all given, two versions of pyarrow write one table as the same bytes, but for
# their own name in the footer.
# Seen (pyarrow 21.0.0, 22.0.0, 23.0.1, 26.0.1; Python 3.11, Linux x86_64): 23 and 26 do; 21, 22 and
# 23 differ pairwise. Without compression and statistics too 22 and 23 differ: since 23 a page also
# ends after 20,000 rows. `max_rows_per_page`, which sets that, is unknown to 22, so no choice of
# options gives the pages of one in the other, and a digest of a table holds from 23 on alone.
# Exits 1 where this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat >"$folder/write.py" <<'PYTHON'
import hashlib, io, re
import pyarrow as pa
import pyarrow.parquet as pq

n = 60_000
table = pa.table({
    "scan_id": [f"scan-{i // 3:06d}" for i in range(n)],
    "structure": [("liver", "spleen", "pancreas")[i % 3] for i in range(n)],
    "volume_ml": [1000.0 + i / 7 for i in range(n)],
})
layout = dict(
    version="2.6", data_page_version="1.0", row_group_size=122_880, data_page_size=1 << 20,
    write_batch_size=1024, use_dictionary=True, dictionary_pagesize_limit=1 << 20,
    store_schema=False, write_page_index=False,
)
digests = []
for more in (
    dict(compression="zstd", compression_level=1, write_statistics=True),
    dict(compression="none", write_statistics=False),
):
    stream = io.BytesIO()
    pq.write_table(table, stream, **layout, **more)
    nameless = re.sub(rb"parquet-cpp-arrow version [0-9.]+", b"", stream.getvalue())
    digests.append(hashlib.sha256(nameless).hexdigest()[:12])
print(pa.__version__, *digests)
PYTHON
for version in 21.0.0 22.0.0 23.0.1 26.0.1; do
    "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --target "$folder/$version" "pyarrow==$version" 2>/dev/null
    PYTHONPATH="$folder/$version" "$folder/venv/bin/python" "$folder/write.py"
done | tee "$folder/seen"
awk '{packed[$1] = $2; plain[$1] = $3}
END {
    ok = packed["23.0.1"] == packed["26.0.1"] && plain["23.0.1"] == plain["26.0.1"] \
        && packed["21.0.0"] != packed["22.0.0"] && packed["22.0.0"] != packed["23.0.1"] \
        && plain["22.0.0"] != plain["23.0.1"]
    print ok ? "as described" : "changed"
    exit !ok
}' "$folder/seen"
