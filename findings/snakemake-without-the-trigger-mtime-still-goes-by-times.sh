#!/usr/bin/env bash
# snakemake: leaving `mtime` out of --rerun-triggers does not stop it from comparing times.
#
# Expected, from the help of --rerun-triggers ("what triggers the rerunning of a job"): with
# `--rerun-triggers params` a job whose input was written after its output, with other content, has
# no reason to run; only changed params are one. A workflow that keeps its own account of what was
# made of what could then switch the comparison of times off.
# Seen (snakemake 9.27.1, Python 3.11): the job runs, "Updated input files", with any choice of
# triggers that leaves mtime out, as with mtime alone. What spares the job is the content: an input
# that is newer and has the bytes it had is no reason, again with any choice. The only way to have
# no time compared is ancient() around every input, one job at a time.
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
rule copy:
    input: "given.txt"
    output: "made.txt"
    shell: "cat {input} >{output}"
SNAKEFILE
snakemake() { "$folder/venv/bin/snakemake" --cores 1 "$@" 2>&1; }
planned() {
    local said
    said=$(snakemake --dry-run --rerun-triggers "$@")
    case $said in
        *"reason: Updated input files"*) echo runs ;;
        *) echo rests ;;
    esac
}
snakemake --version
echo before >given.txt
snakemake --quiet all >/dev/null
ok=yes
for content in before after; do
    sleep 1
    echo "$content" >given.txt
    for triggers in params "params code" "code input software-env" mtime; do
        # shellcheck disable=SC2086 # several triggers are several words
        seen=$(planned $triggers)
        echo "input newer, content $content, --rerun-triggers $triggers: the job $seen"
        [ "$content $seen" = "before rests" ] || [ "$content $seen" = "after runs" ] || ok=no
    done
done
[ $ok = yes ] && echo "as described" || { echo "changed"; exit 1; }
