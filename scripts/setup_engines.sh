#!/usr/bin/env bash
# Installs and starts, on this machine alone, what the engines mpi, slurm and spark of the launcher
# need to be tested with:
#
#   sudo bash scripts/setup_engines.sh          installs, starts, and tries each of them
#   sudo bash scripts/setup_engines.sh --stop   stops what it has started
#
# For Debian and Ubuntu, as root. It may be run again at any time. Slurm becomes a cluster of one
# node, with two CPUs at least, whose daemons listen on loopback. A Slurm that somebody else has set
# up here is left as it is. The engines ray, dask and spark themselves come with pip:
#
#   pip install 'tfdist[ray,dask,spark]'
#
# It also installs what other tests need of Debian: namespaces, WireGuard, a voice.
#
# Variables: LIMIT_SECS  longest wait for each daemon, in seconds (default: 60).

set -euo pipefail

LIMIT_SECS=${LIMIT_SECS:-60}
CONF=/etc/slurm/slurm.conf
MARK='# Made by scripts/setup_engines.sh of tfdist.'
STATE=/var/lib/tfdist-slurm
HOST=$(hostname -s)

say() { echo "setup_engines: $*" >&2; }
fail() { say "$*"; exit 1; }

# Runs a check every half a second until it succeeds or the time is over.
await() {
  local what=$1 deadline=$((SECONDS + LIMIT_SECS))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || fail "$what does not work after $LIMIT_SECS s: $("$@" 2>&1 | tail -3)"
    sleep 0.5
  done
}

install_packages() {
  local wanted=(openmpi-bin slurm-wlm munge) missing=() package
  command -v java >/dev/null || wanted+=(default-jre-headless)
  command -v ip >/dev/null || wanted+=(iproute2) # for two hosts on this machine
  wanted+=(wireguard-go wireguard-tools) # and for a private network between them
  wanted+=(espeak-ng) # speaks the commands of examples/speech.py
  for package in "${wanted[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
      missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || fail "apt-get is not here; install by hand: ${missing[*]}"
  say "installing ${missing[*]}"
  timeout 600 apt-get update -qq
  DEBIAN_FRONTEND=noninteractive timeout 1200 \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

start_munge() {
  munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && return 0
  say "starting munged"
  [[ -s /etc/munge/munge.key ]] || {
    head -c 1024 /dev/urandom >/etc/munge/munge.key
    chown munge: /etc/munge/munge.key
    chmod 400 /etc/munge/munge.key
  }
  mkdir -p /run/munge
  chown munge: /run/munge
  runuser -u munge -- /usr/sbin/munged --force </dev/null >/dev/null 2>&1
  await munge bash -c 'munge -n | unmunge'
}

configure_slurm() {
  if [[ -s $CONF ]] && ! grep -qF "$MARK" "$CONF"; then
    say "$CONF is somebody else's: it stays as it is"
    return 0
  fi
  getent ahostsv4 "$HOST" | grep -q '^127\.' || grep -qw "$HOST" /etc/hosts ||
    echo "127.0.0.1 $HOST" >>/etc/hosts
  local cpus
  cpus=$(nproc)
  ((cpus >= 2)) || cpus=2
  mkdir -p /etc/slurm "$STATE"/{ctld,d}
  cat >"$CONF.part" <<END
$MARK
ClusterName=tfdist
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# Daemons answer at the addresses named here, not on all interfaces.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
StateSaveLocation=$STATE/ctld
SlurmdSpoolDir=$STATE/d
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
ReturnToService=2
KillWait=10
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SlurmdParameters=config_overrides
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=local Nodes=$HOST Default=YES MaxTime=INFINITE OverSubscribe=FORCE:4 State=UP
END
  if cmp -s "$CONF.part" "$CONF"; then rm "$CONF.part"; else mv "$CONF.part" "$CONF"; fi
}

is_running() { [[ -s $1 ]] && kill -0 "$(cat "$1")" 2>/dev/null; }

start_slurm() {
  grep -qF "$MARK" "$CONF" || return 0
  is_running "$STATE/slurmctld.pid" || { say "starting slurmctld"; slurmctld </dev/null; }
  is_running "$STATE/slurmd.pid" || { say "starting slurmd"; slurmd </dev/null; }
  await slurmctld scontrol ping
  # A node that was down stays so until somebody says that it is well.
  scontrol update "nodename=$HOST" state=resume >/dev/null 2>&1 || true
}

try_all() {
  await "a step under srun" timeout 20 srun --ntasks=2 --overcommit true
  local as_root=()
  [[ $(id -u) != 0 ]] || as_root=(--allow-run-as-root)
  await mpirun timeout 20 mpirun "${as_root[@]}" --oversubscribe -n 2 true
  await java java -version
  say "mpirun, srun and java work"
}

stop_all() {
  local name
  for name in slurmd slurmctld; do
    is_running "$STATE/$name.pid" && kill "$(cat "$STATE/$name.pid")"
  done
  [[ ! -s /run/munge/munged.pid ]] || runuser -u munge -- /usr/sbin/munged --stop || true
}

[[ $(id -u) == 0 ]] || fail "it has to run as root: sudo bash $0"
case "${1:-}" in
  --stop) stop_all ;;
  "")
    install_packages
    start_munge
    configure_slurm
    start_slurm
    try_all
    ;;
  *) fail "unknown argument $1; --stop is the only one" ;;
esac
