#!/usr/bin/env bash
# A real SLURM cluster of three virtual nodes on this machine, for tests: slurm_cluster.sh up|down FOLDER
# Everything (keys, state, logs) lives in FOLDER; `export SLURM_CONF=FOLDER/slurm.conf` makes it the one that
# sbatch and its like talk to. Listens on 127.0.0.1 only. Exit code 77: it cannot be had here, the reason is said last.
# No accounts, no systemd and no cgroups are needed.
set -euo pipefail
action=$1 root=$2
base=17800 nodes=3 host=$(uname -n)
host=${host%%.*}
socket=$root/munge/socket
export SLURM_CONF=$root/slurm.conf

programs() { # name and pid file of each daemon, in the order to stop them
  for node in $(seq $nodes); do echo "slurmd $root/slurmd.node$node.pid"; done
  printf '%s\n' "slurmctld $root/slurmctld.pid" "munged $root/munged.pid"
}

stop() {
  if command -v scancel >/dev/null; then
    timeout 20 scancel --signal=KILL --user=root 2>/dev/null || true
    timeout 20 scancel --user=root 2>/dev/null || true
    sleep 1
  fi
  while read -r name file; do
    pid=$(cat "$file" 2>/dev/null) || continue
    grep -q "$name" "/proc/$pid/cmdline" 2>/dev/null || continue # an old number of another process
    kill "$pid" && for _ in $(seq 100); do
      [ -d "/proc/$pid" ] && [ "$(sed 's/.*) //; s/ .*//' "/proc/$pid/stat" 2>/dev/null)" != Z ] || break
      sleep 0.1
    done
  done < <(programs)
  grep -v '# fluxflow-test$' /etc/hosts >"$root/hosts" && cat "$root/hosts" >/etc/hosts
}

await() { # what, command: until it succeeds, at most 30 s
  for _ in $(seq 300); do
    timeout 10 "${@:2}" >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "timed out waiting for $1; logs in $root" >&2
  exit 1
}

unavailable() {
  echo "$1" >&2
  exit 77
}

if [ "$action" = down ]; then
  stop
  exit
fi

needed=()
for pair in slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge; do
  command -v "${pair%%:*}" >/dev/null || needed+=("${pair##*:}")
done
[ "$(id -u)" = 0 ] || unavailable "SLURM's daemons have to be started by root"
mkdir -p "$root/munge"
if [ ${#needed[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || unavailable "SLURM is not installed (${needed[*]}) and there is no apt-get"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -q && apt-get install -yq --no-install-recommends "${needed[@]}"; } >"$root/apt.log" 2>&1 ||
    unavailable "SLURM cannot be installed: $(grep '^E:' "$root/apt.log" | tail -1)"
fi

# Names of nodes must resolve: the first node of a job is where its ranks meet.
for node in $(seq $nodes); do echo "127.0.0.1 node$node # fluxflow-test" >>/etc/hosts; done
chmod 755 "$root"
chmod 711 "$root/munge"
head -c 1024 /dev/urandom >"$root/munge.key"
chmod 600 "$root/munge.key"
munged --force --key-file="$root/munge.key" --socket="$socket" --pid-file="$root/munged.pid" \
  --log-file="$root/munged.log" --seed-file="$root/munged.seed"
await munged munge -S "$socket" -n

# cred_expire is also how long a requeued job waits before it may start again (by default two minutes).
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((base + 17))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/slurmd.%n.pid
SlurmctldLogFile=$root/slurmctld.log
SlurmdLogFile=$root/slurmd.%n.log
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool.%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5,sched_min_interval=0,batch_sched_delay=0
JobRequeue=1
KillWait=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$(for node in $(seq $nodes); do
  echo "NodeName=node$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 20 + node)) CPUs=4 State=UNKNOWN"
done)
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10
# What \`main\` may take nodes from, in each way that SLURM has.
PartitionName=requeue Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=25
PartitionName=cancel Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL GraceTime=25
PartitionName=at_once Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL
CONF
mkdir -p "$root/state"
slurmctld
await slurmctld scontrol ping
for node in $(seq $nodes); do
  mkdir -p "$root/spool.node$node"
  slurmd -N "node$node"
done
await nodes bash -c "[ \$(sinfo -hN -t idle -o %N | sort -u | wc -l) -eq $nodes ]"
