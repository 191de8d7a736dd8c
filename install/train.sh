#!/bin/sh
# Has a proxy learn what it is going to do, so that build.sh can arrange its code for that: a tenth less CPU a request.
#
#   [LLVM_PROFDATA=llvm-profdata] install/train.sh PROFILE
#
# Runs an instrumented proxy through the scenarios of `mesh-bench compare` and writes what it did to PROFILE, for
# `PROFILE=… install/build.sh DIR`. It needs what that needs (root, by sudo; nginx, iproute2), and llvm-profdata of the
# LLVM that rustc is made of, or of a version or two before: `rustup component add llvm-tools`, or LLVM_PROFDATA.
set -eu

fail() { echo "train.sh: $*" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

[ $# = 1 ] || fail "usage: [LLVM_PROFDATA=llvm-profdata] train.sh PROFILE"
mkdir -p "$(dirname "$1")"
profile=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
for tool in nginx ip; do
  PATH=$PATH:/usr/sbin:/sbin command -v $tool >/dev/null ||
    fail "mesh-bench compare needs $tool (Debian: apt-get install nginx-light iproute2)"
done

cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
llvm_profdata=${LLVM_PROFDATA:-$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata}
command -v "$llvm_profdata" >/dev/null ||
  fail "there is no $llvm_profdata: run 'rustup component add llvm-tools', or say LLVM_PROFDATA=…"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
# The proxies that are measured are not root.
chmod 755 "$work"
mkdir -m 777 "$work/raw"

target=${CARGO_TARGET_DIR:-target}
cargo build --release --locked -p mesh-controller -p mesh-bench
# Of the same profile and for the same target as what is shipped, or the names of its functions would differ. In a
# folder of its own, where it does not displace that.
RUSTFLAGS="${RUSTFLAGS:-} -C profile-generate=$work/raw" \
  cargo build --profile dist --locked --target "$host" --target-dir "$target/train" -p mesh-proxy --bin mesh-proxy
cp "$target/release/mesh-controller" "$work/"
cp "$target/train/$host/dist/mesh-proxy" "$work/instrumented"
cat >"$work/mesh-proxy" <<EOF
#!/bin/sh
LLVM_PROFILE_FILE=$work/raw/%p.profraw exec $work/instrumented "\$@"
EOF
chmod 755 "$work/mesh-proxy"

as_root "$target/release/mesh-bench" compare --quick --no-footprint --peers mesh --binaries "$work" \
  --scenarios h1,open,post,h2,bulk,connect
"$llvm_profdata" merge -o "$profile" "$work/raw"
