#!/usr/bin/env bash
# Starts a zhiyin command where it belongs: start.sh [--allow-cpu] [--dry-run] COMMAND [WORDS...]
#
#   start.sh understand recordings --model pocket-om --output-dir results
#
# Looks at the machine with `zhiyin doctor --json`, sources CANN's set_env.sh where that was forgotten, chooses the
# device (or takes the command's own --device), binds to the NUMA node the device hangs on, and sets OMP_NUM_THREADS to
# the cores of that node. Where no accelerator can be used it ends with code 2, unless the CPU is allowed: --allow-cpu,
# ZHIYIN_ALLOW_CPU=1, or --device cpu in the command. What was decided is printed to standard error; standard output
# is the command's own. --dry-run only prints.
set -euo pipefail

# Before every path of the system that is read here; for tests.
ROOT=${ZHIYIN_ROOT:-}

say() { printf 'start.sh: %s\n' "$*" >&2; }

refuse() {
    say "$*"
    exit 2
}

usage() { refuse 'usage: start.sh [--allow-cpu] [--dry-run] COMMAND [WORDS...], a command of zhiyin'; }

# The report of zhiyin doctor as lines that the shell can read: kind|name|value|rest.
probe() {
    local report code=0
    report=$(zhiyin doctor --json) || code=$?
    # 1: something is to be mended, which need not stop us; anything else: no report.
    ((code <= 1)) || return 1
    python3 -c '
import json, sys

def line(*cells):
    print("|".join(" ".join(str(cell).replace("|", "/").split()) for cell in cells))

report = json.load(sys.stdin)
line("usable", report["host"]["cpu"]["usable"], "", "")
line("cann", int(report["ascend"]["sourced"]), "", report["ascend"]["set_env"])
for node in report["host"]["cpu"]["numa_nodes"]:
    line("node", node["node"], "", node["cpus"])
for choice in report["choices"]:
    line("choice", choice["backend"], choice["device"], choice["reason"])
for device in report["devices"]:
    node = device["numa_node"]
    usable = int(set(device["seen_by"]) != {"npu-smi"})
    line("device", device["name"], usable, "" if node is None else node)
for problem in report["problems"]:
    if problem["level"] == "problem":
        line("problem", problem["id"], "", problem["what"] + "; mend: " + problem["fix"])
' <<<"$report" 2>/dev/null
}

declare -A nodes devices device_nodes choices reasons
declare -a problems bind
usable=1 sourced=0 set_env='' device='' why=''

# Fills these tables from the lines of the probe.
read_facts() {
    local kind name value rest
    nodes=() devices=() device_nodes=() choices=() reasons=() problems=()
    while IFS='|' read -r kind name value rest; do
        case $kind in
        usable) usable=$name ;;
        cann) sourced=$name set_env=$rest ;;
        node) nodes[$name]=$rest ;;
        choice) choices[$name]=$value reasons[$name]=$rest ;;
        device) devices[$name]=$value device_nodes[$name]=$rest ;;
        problem) problems+=("$rest") ;;
        esac
    done <<<"$1"
}

look() {
    local facts
    command -v python3 >/dev/null || refuse 'no python3 on PATH; it reads the report of zhiyin doctor'
    facts=$(probe) || refuse 'zhiyin doctor --json gives no report; is zhiyin installed, and on PATH?'
    read_facts "$facts"
}

# CANN's script is not written for `set -eu`.
source_cann() {
    say "CANN: sourcing $set_env"
    set +eu
    # shellcheck disable=SC1090
    source "$set_env" >&2
    set -eu
}

# How many cores a list like 0-3,8 names.
count_cores() {
    local part total=0
    local -a parts
    IFS=, read -ra parts <<<"$1"
    for part in "${parts[@]}"; do
        total=$((total + ${part#*-} - ${part%-*} + 1))
    done
    echo "$total"
}

# The node of an NPU that npu-smi does not tell: that of the cards on the PCI bus (Huawei, processing accelerators), if
# all of them hang on one node, for how devices are numbered along the bus is not said.
node_of_cards() {
    local card node found=''
    for card in "$ROOT"/sys/bus/pci/devices/*; do
        [[ -r $card/vendor && -r $card/class && -r $card/numa_node ]] || continue
        [[ $(<"$card/vendor") == 0x19e5 && $(<"$card/class") == 0x1200* ]] || continue
        node=$(<"$card/numa_node")
        [[ -z $found || $found == "$node" ]] || return 0
        found=$node
    done
    [[ $found == -1 ]] || echo "$found"
}

# The value of an option among the words of the command, the last one if it is given twice.
option() {
    local name=$1 value=''
    shift
    while (($#)); do
        case $1 in
        "$name") value=${2:-} ;;
        "$name"=*) value=${1#*=} ;;
        esac
        shift
    done
    echo "$value"
}

# How often an option is given.
count() {
    local name=$1 word times=0
    for word in "${@:2}"; do
        if [[ $word == "$name" || $word == "$name"=* ]]; then times=$((times + 1)); fi
    done
    echo "$times"
}

# The device for the command's backend, or the first accelerator of any backend: OM, then torch, then onnxruntime.
choose() {
    local backend=$1 name order=(om eager onnx)
    case $backend in
    '' | auto) ;;
    hf) order=(eager) ;;
    *) order=("$backend") ;;
    esac
    for name in "${order[@]}"; do
        device=${choices[$name]:-}
        if [[ -n $device && $device != cpu ]]; then
            why="backend $name, ${reasons[$name]}"
            return
        fi
    done
    device=cpu why=$(reasons_of "${order[@]}")
}

# Why each backend runs where it would run.
reasons_of() {
    local name text=''
    for name in "$@"; do
        text+="${text:+; }$name: ${reasons[$name]:-not known to zhiyin doctor}"
    done
    echo "$text"
}

# Whether a library sees the device; what npu-smi alone sees, no backend can use.
is_usable() {
    [[ $1 == cpu || ${devices[$1]:-0} == 1 || " ${choices[*]} " == *" $1 "* ]]
}

# bind=(numactl ...), or empty. In a container memory binding needs the capability SYS_NICE; cores need nothing.
bind_to() {
    local node=$1 try
    bind=()
    if [[ -z $node ]]; then
        say 'NUMA: not bound, no node is known for this device'
    elif ((${#nodes[@]} < 2)); then
        say 'NUMA: not bound, the machine has one node'
    elif ! command -v numactl >/dev/null; then
        say "NUMA: not bound to node $node of $device, numactl is not installed; times may wander"
    else
        for try in "--cpunodebind=$node --membind=$node" "--cpunodebind=$node"; do
            # shellcheck disable=SC2086
            if numactl $try true 2>/dev/null; then
                # shellcheck disable=SC2206
                bind=(numactl $try)
                say "NUMA: node $node of $device, cores ${nodes[$node]:-?} ($try)"
                return
            fi
        done
        say "NUMA: not bound to node $node of $device, numactl may not do it here; times may wander"
    fi
}

set_threads() {
    local node=$1 cores=$usable on_node
    if [[ -n ${OMP_NUM_THREADS:-} ]]; then
        say "OMP_NUM_THREADS=$OMP_NUM_THREADS, as it was"
        return
    fi
    if ((${#bind[@]})) && [[ -n ${nodes[$node]:-} ]]; then
        on_node=$(count_cores "${nodes[$node]}")
        ((on_node >= cores)) || cores=$on_node
    fi
    export OMP_NUM_THREADS=$cores
    say "OMP_NUM_THREADS=$cores"
}

run() {
    say "runs: $*"
    if ((dry_run)); then exit 0; fi
    exec "$@"
}

allow_cpu=${ZHIYIN_ALLOW_CPU:-0} dry_run=0
while (($#)); do
    case $1 in
    --allow-cpu) allow_cpu=1 ;;
    --dry-run) dry_run=1 ;;
    -*) usage ;;
    *) break ;;
    esac
    shift
done
(($#)) || usage

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
if [[ -x $here/zhiyin ]]; then PATH=$here:$PATH; fi
command -v zhiyin >/dev/null || refuse 'no zhiyin on PATH; install it, or set PATH to the bin folder of its environment'

case $1 in
understand | listen | info | verify | bench | eval | train | serve) ;;
*) run zhiyin "$@" ;; # runs no model
esac

look
if [[ $sourced == 0 && -n $set_env ]]; then
    source_cann
    look
fi
for problem in "${problems[@]}"; do say "problem: $problem"; done

asked=$(option --device "${@:2}")
words=("$@")
if [[ $1 == serve ]] && (($(count --device "${@:2}") > 1)); then
    say 'devices: several, as the command says; NUMA: not bound, for they may hang on several nodes'
    run zhiyin "${words[@]}"
fi
if [[ -n $asked && $asked != auto ]]; then
    device=$asked
    [[ $device == *:* || $device == cpu ]] || device=$device:0
    is_usable "$device" || refuse "$asked cannot be used here ($(reasons_of om eager onnx)); devices: ${!devices[*]}"
    say "device: $device, as the command says"
else
    choose "$(option --backend "${@:2}")"
    if [[ $device == cpu ]]; then
        [[ $allow_cpu == 1 ]] || refuse "no accelerator can be used ($why); the CPU must be allowed: --allow-cpu or ZHIYIN_ALLOW_CPU=1"
        say "device: cpu, which is allowed; no accelerator can be used ($why)"
    else
        say "device: $device ($why)"
    fi
    words+=(--device "$device") # the last one counts
fi

node=${device_nodes[$device]:-}
if [[ -z $node && $device == npu:* ]]; then node=$(node_of_cards); fi
bind_to "$node"
set_threads "$node"
run "${bind[@]}" zhiyin "${words[@]}"
