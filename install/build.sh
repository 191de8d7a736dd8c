#!/bin/sh
# Builds what a release consists of, as programs that need nothing of the system they run on.
#
#   [TARGET=x86_64-unknown-linux-gnu] install/build.sh DIR [PROGRAM …]
#
# Puts mesh-proxy, mesh-controller and mesh (or what is named) into DIR. Linked statically with glibc: its memory
# allocation is the faster one, and since 2.34 it brings names' resolution (files and DNS) along.
set -eu

fail() { echo "build.sh: $*" >&2; exit 1; }

[ $# -ge 1 ] || fail "usage: [TARGET=x86_64-unknown-linux-gnu] build.sh DIR [PROGRAM …]"
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- mesh-proxy mesh-controller mesh

cd "$(dirname "$0")/.."
target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
case $target in
  *-linux-gnu) ;;
  *) fail "$target is not a target of Linux with glibc" ;;
esac
# Said by --target, so that it does not concern what runs during the build (build scripts, macros).
# Packed relocations: the program can be loaded at any address without 600 KB that say where it mentions its own.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"
# The inner loops of cryptography are assembler, and no panic passes through its C.
AWS_LC_SYS_CFLAGS="-Os -fno-asynchronous-unwind-tables"
export RUSTFLAGS AWS_LC_SYS_CFLAGS
for program; do
  case $program in
    mesh-testapp) package=mesh-tests ;;
    *) package=$program ;;
  esac
  # The one that is beside every pod is built smaller; for the others that would take longer than it is worth.
  case $program in
    mesh-proxy) profile=dist ;;
    *) profile=release ;;
  esac
  # One by one: built together, each would get the features that the others ask for.
  cargo build --profile "$profile" --locked --target "$target" -p "$package" --bin "$program"
  cp "${CARGO_TARGET_DIR:-target}/$target/$profile/$program" "$dir/$program"
done
