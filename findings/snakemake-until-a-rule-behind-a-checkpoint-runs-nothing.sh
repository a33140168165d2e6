#!/usr/bin/env bash
# snakemake: --until a rule behind a checkpoint runs nothing and ends with 0.
#
# Expected, from the help of --until ("Runs the pipeline until it reaches the specified rules"): in a
# workflow where `all` gathers what `work` makes of each file that the checkpoint `split` wrote,
# `--until work` runs split, then work for every file, and leaves gather out. So does
# `--omit-from gather`.
# Seen (snakemake 9.27.1, Python 3.11): on a fresh folder `--until work` plans 0 jobs, not even the
# checkpoint, and ends with 0. After `--until split` has run the checkpoint, `--until work` says
# "Nothing to be done (all requested files are present and up to date)", ends with 0, and no file of
# work is there; `--omit-from gather` the same. Without either option all three rules run. The rule
# is not in the graph when it is cut: what is behind a checkpoint is put in when the checkpoint has
# been looked at, and what was cut off before is not looked at again. Naming the files that work
# makes, in place of the rule, does what was wanted.
# Exits 1 where this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    snakemake==9.27.1 2>/dev/null
cd "$folder"
export XDG_CACHE_HOME=$folder/cache
cat >Snakefile <<'SNAKEFILE'
rule all:
    input: "all.txt"

checkpoint split:
    output: directory("parts")
    shell: "mkdir parts; touch parts/1 parts/2"

rule work:
    input: "parts/{n}"
    output: "done/{n}.txt"
    shell: "cp {input} {output}"

def every(wildcards):
    folder = checkpoints.split.get().output[0]
    return expand("done/{n}.txt", n=glob_wildcards(folder + "/{n,[0-9]+}").n)

rule gather:
    input: every
    output: "all.txt"
    shell: "touch {output}"
SNAKEFILE
ok=yes
expect() {
    local wanted=$1 said code=0 made
    shift
    said=$("$folder/venv/bin/snakemake" --cores 1 "$@" 2>&1) || code=$?
    made=$(find parts done all.txt -type f -name "[!.]*" 2>/dev/null | sort | tr '\n' ' ' || true)
    echo "snakemake $*: exit $code, files: ${made:-none}"
    grep -m1 -E "^total +0|Nothing to be done" <<<"$said" || true
    [ "$code $made" = "0 $wanted" ] || ok=no
}
"$folder/venv/bin/snakemake" --version
expect "" --until work
expect "parts/1 parts/2 " --until split
expect "parts/1 parts/2 " --until work
expect "parts/1 parts/2 " --omit-from gather
expect "done/1.txt done/2.txt parts/1 parts/2 " done/1.txt done/2.txt
expect "all.txt done/1.txt done/2.txt parts/1 parts/2 "
[ $ok = yes ] && echo "as described" || { echo "changed"; exit 1; }
